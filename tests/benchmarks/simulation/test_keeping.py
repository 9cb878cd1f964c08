"""What was measured is kept, and what can not be read is measured again."""

from pathlib import Path

import msgspec
import pytest

from slotwise.benchmarks.calibration.keeping import FOLDER, Calibration, Calibrations
from slotwise.benchmarks.simulation.engine import HostCosts
from tests.benchmarks.simulation.machines import EVEN

KEY = "0123456789abcdef" * 4
CALIBRATION = Calibration(model="m.gguf", measured="2026-01-01T00:00:00Z", engine=EVEN, load_s=0.5)


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    kept = Calibrations(tmp_path)
    assert kept.find(KEY) is None
    kept.keep(KEY, CALIBRATION)
    assert Calibrations(tmp_path).find(KEY) == CALIBRATION
    assert Calibrations(tmp_path).find(KEY[::-1]) is None


@pytest.mark.parametrize("text", [b"", b"{", b'{"form": 1}', b"\xff", b'"\xff"'])
def test_what_can_not_be_read_is_measured_again(tmp_path: Path, text: bytes) -> None:
    kept = Calibrations(tmp_path)
    kept.keep(KEY, CALIBRATION)
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_bytes(text)
    assert kept.find(KEY) is None
    kept.keep(KEY, CALIBRATION)
    assert kept.find(KEY) == CALIBRATION


def test_of_an_older_form_the_steps_are_known_and_the_server_is_not(tmp_path: Path) -> None:
    kept = Calibrations(tmp_path)
    kept.keep(KEY, msgspec.structs.replace(CALIBRATION, form=1, host=HostCosts(request_s=0.07)))

    assert kept.find(KEY) == CALIBRATION


def test_a_folder_that_can_not_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    Calibrations(tmp_path).keep(KEY, CALIBRATION)
    assert Calibrations(tmp_path).find(KEY) is None
