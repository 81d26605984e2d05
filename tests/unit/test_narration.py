import json

from orchestrator.narration import Narrator, narrated


def event(name, **fields):
    return f"@trainwright {json.dumps({'event': name, 'time': 0, **fields})}"


def sentences(*lines):
    """Without the time of day."""
    return [line.split("  ", 1)[1] if line[2:3] == ":" else line for line in narrated(lines)]


def test_a_healthy_run_tells_stages_epochs_evaluations_saves_and_its_end():
    lines = [
        event("state", state="starting"),
        event("stage", doing="starting Ray"),
        event("attempt", attempt=1, start_step=0, total_steps=1000),
        *(
            event(
                "metrics",
                step=step,
                values={
                    "train/loss": 1.5,
                    "train/epoch": step / 500,
                    "system/samples_per_second": 1234.5,
                },
            )
            for step in (1, 50, 99, 101, 150, 450, 500, 501, 1000)
        ),
        event("metrics", step=1000, values={"val/loss": 0.25, "val/accuracy": 0.9}),
        event("checkpoint", step=1000, best={"step": 1000, "metric": "val/loss", "value": 0.25}),
        event("checkpoint", step=1001, best={"step": 1000, "metric": "val/loss", "value": 0.25}),
        event("a kind of tomorrow"),
        event("end", state="succeeded", message="took all 1000 steps"),
    ]
    assert sentences(*lines) == [
        "starting Ray",
        "step 1/1,000, epoch 0.00: train/loss 1.5, 1,234 samples a second",
        "step 101/1,000, epoch 0.20: train/loss 1.5, 1,234 samples a second",
        "step 450/1,000, epoch 0.90: train/loss 1.5, 1,234 samples a second",
        "step 500/1,000, epoch 1.00: train/loss 1.5, 1,234 samples a second",
        "step 1,000/1,000, epoch 2.00: train/loss 1.5, 1,234 samples a second",
        "evaluated after step 1,000: val/accuracy 0.9, val/loss 0.25",
        "saved the checkpoint of step 1,000, the best so far: val/loss 0.25",
        "saved the checkpoint of step 1,001",
        "succeeded: took all 1000 steps",
    ]


def test_faults_and_what_comes_next_are_told():
    failure = {"message": "worker 1 was lost", "failure": 1, "max_failures": 3}
    assert sentences(
        event("incident", retry=True, **failure),
        event("incident", retry=False, **failure),
        event("incident", retry=True, is_counted=False, **failure),
        event("attempt", attempt=2, start_step=40, total_steps=100),
        event("waiting", message="2 GPUs are asked for"),
    ) == [
        "worker 1 was lost; restarting (1 of 3)",
        "worker 1 was lost; not retried",
        "worker 1 was lost; restarting, which is not counted",
        "goes on from step 40 (attempt 2)",
        "waiting for nodes: 2 GPUs are asked for",
    ]


def test_a_node_whose_hardware_fails_is_named():
    fault = {"node": "10.0.0.7 (Ray node ab)", "most": 3}
    assert sentences(
        event("node_fault", faults=1, is_left_out=False, **fault),
        event("node_fault", faults=2, is_left_out=False, **{**fault, "most": None}),
        event("node_fault", faults=3, is_left_out=True, **fault),
    ) == [
        "the hardware of 10.0.0.7 (Ray node ab) failed once; after 3 it is left out",
        "the hardware of 10.0.0.7 (Ray node ab) failed 2 times",
        "the hardware of 10.0.0.7 (Ray node ab) failed 3 times: no worker is started there any more",
    ]


def test_warnings_and_output_name_their_worker():
    assert sentences(
        event("worker", pid=77, rank=1),
        "(RayTrainWorker pid=77, ip=10.0.0.1) WARNING the disk is slow",
        "\x1b[36m(RayTrainWorker pid=78)\x1b[0m hello",
        '(RayTrainWorker pid=77) @trainwright {"event":"metr',  # cut off by a full disk
        "plain",
        "",
    ) == ["worker 1: WARNING the disk is slow", "hello", "plain"]


def test_of_a_traceback_there_is_the_line_that_says_what_it_was_also_where_two_are_mixed():
    first, second = "(RayTrainWorker pid=1) ", "(RayTrainWorker pid=2) "
    lines = [
        f"{first}Traceback (most recent call last):",
        f'{first}  File "/library/deep.py", line 3, in inner',
        f"{second}unharmed",
        f"{first}    raise KeyError(1)",
        f"{first}KeyError: 1",
        first,
        f"{first}During handling of the above exception, another exception occurred:",
        first,
        f"{first}Traceback (most recent call last):",
        f"{first}  File ...",
        f"{first}ValueError: no such column",
        f"{first}  a note of it",
        f"{first}goes on",
    ]
    shown = "  (the whole traceback: logs --raw)"
    assert sentences(*lines) == [
        "unharmed",
        f"KeyError: 1{shown}",
        f"ValueError: no such column{shown}",
        "goes on",
    ]


def test_what_a_library_raises_is_one_sentence_that_names_the_library():
    process = "(TrainController pid=1) "
    traceback = [f"{process}Traceback (most recent call last):", f"{process}  File ..."]
    lines = [
        *traceback,
        f"{process}ray.exceptions.GetTimeoutError: Get timed out: some object(s) not ready.",
        *traceback,
        f"{process}torch.OutOfMemoryError: tried to allocate 2 GiB",
        *traceback,
        f"{process}ray.exceptions.RayTaskError(ValueError): no such file",
    ]
    shown = "  (the whole traceback: logs --raw)"
    assert sentences(*lines) == [
        f"Ray says: Get timed out: some object(s) not ready (GetTimeoutError){shown}",
        f"Torch says: tried to allocate 2 GiB (OutOfMemoryError){shown}",
        f"Ray says: no such file (ValueError){shown}",
    ]


def test_a_ray_that_is_slow_is_told_without_its_traceback_and_later_tracebacks_are_told():
    process = "(TrainController pid=1) "
    traceback = [f"{process}Traceback (most recent call last):", f"{process}  File ..."]
    lines = [
        f"{process}Failed to send resource request for train-1. If this only happens transiently during network partition"
        " or CPU being overloaded, it's safe to ignore this error. If this error persists, file a GitHub issue.",
        *traceback,
        f"{process}ray.exceptions.GetTimeoutError: Get timed out: some object(s) not ready.",
        f"{process}goes on",
        *traceback,
        f"{process}KeyError: 1",
    ]
    assert sentences(*lines) == [
        "Ray is slow to answer, as on a busy machine; it is asked again",
        "goes on",
        "KeyError: 1  (the whole traceback: logs --raw)",
    ]


def test_a_value_that_is_no_number_is_told():
    [said] = Narrator().sentences({"event": "metrics", "step": 3, "values": {"val/loss": float("nan")}})
    assert said == "evaluated after step 3: val/loss nan"
