"""The lock file with hashes holds what was tested, whole."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Builds of the machine's own (SECURITY.md).
EXEMPT = {"torch", "torchvision"}


def test_every_tested_version_has_a_hash():
    tested = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), flags=re.M)
    )
    hashed = (ROOT / "requirements-hashed.lock").read_text()
    entries = re.findall(
        r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", hashed, flags=re.M
    )
    assert {name: version for name, version, _ in entries} == {
        name: version for name, version in tested.items() if name not in EXEMPT
    }
