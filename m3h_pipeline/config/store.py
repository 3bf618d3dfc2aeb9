"""``<out>/m3h.toml``: read, written, and joined with the command line's choices."""

from __future__ import annotations

import datetime as dt
import tomllib
from pathlib import Path

from pydantic import ValidationError

from m3h_pipeline.config import toml_text
from m3h_pipeline.config.data import DEMO_SNAPSHOT, SourceConfig
from m3h_pipeline.config.launching import LauncherConfig
from m3h_pipeline.config.modelling import EvaluationConfig, TimConfig, TrainingConfig
from m3h_pipeline.config.removed import drop_removed
from m3h_pipeline.config.sections import Config
from m3h_pipeline.errors import InputError
from m3h_pipeline.state.paths import CONFIG_FILE
from m3h_pipeline.state.snapshots import as_date


def load(out: Path) -> Config:
    """Read the configuration of an out-folder.

    Raises `InputError` where there is none, or where a key is unknown or a value impossible.
    """
    file = out / CONFIG_FILE
    try:
        with file.open("rb") as stream:
            document = tomllib.load(stream)
        return Config.model_validate(drop_removed(document))
    except FileNotFoundError:
        raise InputError(f"{file} is not there: `m3h run --out {out}` writes it") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file} is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not in UTF-8: save it in that encoding") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"{file}: there is no setting {where}: delete the line, or mend its name"
            ) from None
        raise InputError(f"{file}: {where}: {_format_reason(error)}") from None
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None


def save(config: Config, out: Path) -> None:
    """Write the configuration, under a temporary name first.

    A new file holds every setting with what it means. In one that is there only the lines change
    whose values do: comments, order and what a person left out stay.
    """
    file = out / CONFIG_FILE
    if file.exists():
        before = file.read_bytes().decode()
        text = toml_text.update_toml(before, load(out), config)
        if text == before:
            return
    else:
        text = toml_text.format_toml(config)
    partial = out / f".{CONFIG_FILE}.partial"
    partial.write_bytes(text.encode())
    partial.replace(file)


def create(source: str | None, path: Path | None, size: str | None) -> Config:
    """The configuration of a new out-folder, not yet written and not yet dated."""
    name = source or "demo"
    if name != "demo" and path is None:
        raise InputError(f"--source {name} needs --path, the folder that holds the data")
    presets = {
        # Five minutes on two cores: a third fold would take two more.
        "full": Config(evaluation=EvaluationConfig(folds=2)),
        # For trying and testing: as little of everything as still runs every part.
        "tiny": Config(
            training=TrainingConfig(epochs=10, tree_rounds=20, bootstrap=100),
            tim=TimConfig(tasks=4),
            # Starting a process takes longer than all that it would train.
            launcher=LauncherConfig(workers=1),
        ),
    }
    size = size or "full"
    place = str(path.resolve()) if path else ""
    try:
        chosen = SourceConfig.model_validate({"name": name, "path": place, "size": size})
    except ValidationError as error:
        raise InputError(f"--source {name}: {_format_reason(error)}") from None
    config = presets[size] if name == "demo" else Config()
    return config.model_copy(update={"source": chosen})


def configure_run(
    out: Path, source: str | None, path: Path | None, size: str | None, snapshot: str | None
) -> Config:
    """The configuration of an out-folder with the command line's choices applied, not yet written.

    One out-folder holds one source: another name, path or size is refused. Without a date it is
    that of the last run, before the first run today's.
    """
    if snapshot is not None and as_date(snapshot) is None:
        raise InputError(f"--snapshot {snapshot!r} is not a date; write it as 2026-01-31")
    config = (
        _load_matching(out, source, path, size)
        if (out / CONFIG_FILE).exists()
        else create(source, path, size)
    )
    first = DEMO_SNAPSHOT if config.source.name == "demo" else dt.date.today().isoformat()
    return set_snapshot(config, snapshot or config.source.snapshot or first)


def set_snapshot(config: Config, snapshot: str) -> Config:
    """The configuration with another date of the snapshot."""
    return config.model_copy(
        update={"source": config.source.model_copy(update={"snapshot": snapshot})}
    )


def keep_snapshot(config: Config, out: Path) -> Config:
    """The configuration with the date of the snapshot that the out-folder has, if it has one."""
    return set_snapshot(config, load(out).source.snapshot if (out / CONFIG_FILE).exists() else "")


def _load_matching(out: Path, source: str | None, path: Path | None, size: str | None) -> Config:
    """What the out-folder holds, where the command line asks for nothing else."""
    config = load(out)
    asked = {"name": source, "path": str(path.resolve()) if path else None, "size": size}
    for field, value in asked.items():
        current = getattr(config.source, field)
        if value is not None and value != current:
            raise InputError(
                f"{out} holds the source with {field} = {current!r}, not {value!r}: "
                "one out-folder holds one source; choose another folder with --out"
            )
    if config.source.name != "demo" and not config.source.path:
        raise InputError(
            f"{out / CONFIG_FILE}: source.path is empty: write the folder that holds the data"
        )
    return config


def _format_reason(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")
