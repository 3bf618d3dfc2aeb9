"""Notes and images of MIMIC-IV's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from canonical_tables import count_reasons, extract_mimic, when
from mimic_folder import hospital, image, note, write


def test_notes(tmp_path):
    data = hospital()
    data["note/radiology"] += [
        note("11-RR-2", 11, None, "2150-01-02 09:00:00", "2150-01-02 10:00:00", "By time."),
        note("11-RR-3", 11, None, "2150-07-02 09:00:00", None, "Outside."),
    ]
    tables, counts = extract_mimic(write(tmp_path / "h", data))
    notes = tables["notes"]
    assert notes["note_id"].to_list() == ["11-RR-1", "11-RR-2", "11-DS-1"]
    assert notes["kind"].to_list() == ["radiology", "radiology", "discharge"]
    assert notes["text"][0] == 'No effusion,\n"clear".'
    # A discharge summary's charttime is the midnight before; it is known at the discharge.
    assert notes["available_time"].to_list() == [
        when("2150-01-01 21:00"), when("2150-01-02 10:00"), when("2150-01-06 08:00")
    ]  # fmt: skip
    assert count_reasons(tables["lineage"], "note/radiology") == {
        None: 2, "no hadm_id, and taken outside any stay": 1
    }  # fmt: skip
    assert not any(table.startswith("note/") for table in counts["absent"])
    assert counts["placed by time"]["radiology"] == 1


@pytest.mark.parametrize("folder", ["cxr/", ""])
def test_images(tmp_path, folder):
    data = hospital()
    rows = data.pop("cxr/mimic-cxr-2.0.0-metadata")
    data[f"{folder}mimic-cxr-2.0.0-metadata"] = [*rows, image("d3", 11, 53, 21500102, "noon")]
    root = write(tmp_path / "h", data)
    jpeg = root / folder / "files" / "p11" / "p11" / "s51" / "d1.jpg"
    jpeg.parent.mkdir(parents=True)
    jpeg.write_bytes(b"jpeg")
    tables, _ = extract_mimic(root)
    images = tables["images"].sort("source_row")
    assert images["image_id"].to_list() == ["d1", "d3"]
    assert images["stay_id"].to_list() == ["21", None]
    assert images["time"].to_list() == [when("2150-01-01 09:30:12"), None]
    assert images["view"][0] == "PA"
    assert images["path"][0] == str(jpeg)
    assert Path(images["path"][0]).is_absolute()
    assert images["parse_errors"].to_list() == [None, "studydate, studytime: not a date"]
    assert count_reasons(tables["lineage"], f"{folder}mimic-cxr") == {
        None: 2,
        "no hadm_id, and taken outside any stay": 1,
    }
