from io import BytesIO

from PIL import Image

from orchestrator.ledger import Ledger
from orchestrator.telemetry.ledger_view import files_of_ledger, ledger_metrics, ledger_rows

LEDGER = Ledger(
    seconds={"step": 60.0, "data wait": 20.0, "start: starting Ray": 12.0, "start: building the model": 8.0},
    steps=50,
)


def test_the_tracker_has_its_parts_by_name_and_stages_of_starts_as_one():
    assert ledger_metrics(LEDGER) == {
        "system/ledger/effective_training_time": 0.6,
        "system/ledger/step_seconds": 60.0,
        "system/ledger/data_wait_seconds": 20.0,
        "system/ledger/start_seconds": 20.0,
    }


def test_rows_and_picture_show_each_part_by_its_size():
    assert list(ledger_rows(LEDGER).items()) == [
        ("step", "60.0 s (60%)"),
        ("data wait", "20.0 s (20%)"),
        ("start: starting Ray", "12.0 s (12%)"),
        ("start: building the model", "8.0 s (8%)"),
        ("all", "100.0 s, 60.0% of it effective training time"),
    ]
    files = dict(files_of_ledger(LEDGER))
    assert Ledger.model_validate_json(files["ledger/ledger.json"]) == LEDGER
    picture = Image.open(BytesIO(files["ledger/ledger.png"])).convert("RGB")
    bar = [picture.getpixel((x, 60)) for x in range(picture.width)]
    green, orange = bar.count((44, 160, 44)), bar.count((255, 127, 14))
    assert abs(green - 3 * orange) <= 6 and green > 400


def test_a_run_without_a_second_has_both():
    assert list(ledger_rows(Ledger())) == ["all"]
    assert dict(files_of_ledger(Ledger()))
