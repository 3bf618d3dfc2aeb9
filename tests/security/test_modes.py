"""An out-folder that an earlier version left open is closed by the next command."""

from m3h_pipeline.cli.out_folder import prepare_folder
from m3h_pipeline.state.permissions import restrict_to_owner


def test_what_the_pipeline_wrote_is_closed_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    notes = out / "snapshots" / "2026-01-01" / "inputs" / "language.parquet"
    notes.parent.mkdir(parents=True)
    notes.write_text("text")
    foreign = out / "mine" / "notes.txt"
    foreign.parent.mkdir()
    foreign.write_text("text")
    for path in (out, *out.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    prepare_folder(out, "demo", None, "tiny")
    assert out.stat().st_mode & 0o777 == 0o700
    assert notes.stat().st_mode & 0o777 == 0o600
    assert notes.parent.stat().st_mode & 0o777 == 0o700
    assert foreign.stat().st_mode & 0o777 == 0o644


def test_link_out_of_the_folder_is_not_followed(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("text")
    outside.chmod(0o644)
    (tmp_path / "out" / "latest").mkdir(parents=True)
    (tmp_path / "out" / "latest" / "link").symlink_to(outside)
    restrict_to_owner(tmp_path / "out")
    assert outside.stat().st_mode & 0o777 == 0o644
