"""Call `m3h_core._torchvision_guard` before torchvision is imported, whoever imports it.

m3h_core's encoders call the guard themselves. A user's own ``import timm`` in the same environment
does not, so ``make setup`` lets `add_to_environment` write a ``.pth`` file there, where torchvision
needs it: Python imports this module at its start then, and the guard, with torch, only when
torchvision is imported.
"""

from __future__ import annotations

# Every start of Python in the environment pays for what is imported here.
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType

_FILE = "m3h_torchvision.pth"
_LINE = (
    r"""import sys; exec('try: __import__("m3h_core._torchvision_hook")"""
    r"""\nexcept ImportError: pass')"""
)


class _TorchvisionFinder:
    """Finds torchvision as Python does, and has the guard called before its code runs."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def guard_and_execute(module: ModuleType) -> None:
            from m3h_core._torchvision_guard import guard

            guard()
            execute(module)

        loader.exec_module = guard_and_execute
        return spec


def add_to_environment(folder: Path | None = None) -> bool:
    """Write the ``.pth`` file into the environment's site-packages where the guard is needed, else
    remove it.

    Returns whether it is there now.
    """
    import sysconfig
    from pathlib import Path

    from m3h_core._torchvision_guard import is_needed

    file = (folder or Path(sysconfig.get_path("purelib"))) / _FILE
    if not is_needed():
        file.unlink(missing_ok=True)
        return False
    file.write_text(_LINE + "\n")
    return True


if not any(finder is _TorchvisionFinder for finder in sys.meta_path):
    sys.meta_path.insert(0, _TorchvisionFinder)
