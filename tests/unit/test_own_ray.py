"""What a private Ray instance leaves out, and what the driver need not import."""

import os
import select
import subprocess
import sys

from orchestrator import own_ray, stand_in_agent

_DRIVER_S = "orchestrator.driver, orchestrator.data, orchestrator.own_ray, orchestrator.trainer, orchestrator.worker_group"


def test_a_stand_in_ends_with_the_process_that_started_it():
    parent = subprocess.Popen(
        ["/bin/sh", "-c", f"{sys.executable} -IS {stand_in_agent.__file__} $$ & echo $!; read wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    stand_in = os.pidfd_open(int(parent.stdout.readline()))
    assert not select.select([stand_in], [], [], 0)[0]
    parent.communicate()
    assert select.select([stand_in], [], [], 60)[0]
    os.close(stand_in)


def test_a_stand_in_that_comes_too_late_ends_at_once():
    gone = subprocess.Popen(["true"])
    gone.wait()
    subprocess.run([sys.executable, "-IS", stand_in_agent.__file__, str(gone.pid)], check=True, timeout=60)


def test_agents_that_have_nothing_to_do_are_stood_in_for():
    command = ["raylet", "--dashboard_agent_command=a b", "--runtime_env_agent_command=c", "--head"]
    lean = own_ray._LeanNode._with_idle_agents(own_ray._LeanNode.__new__(own_ray._LeanNode), command)
    assert lean[0] == "raylet" and lean[2:] == command[2:]
    assert lean[1].startswith("--dashboard_agent_command=") and lean[1].endswith(
        f"stand_in_agent.py {os.getpid()}"
    )
    leaner = own_ray._LeanerNode._with_idle_agents(own_ray._LeanerNode.__new__(own_ray._LeanerNode), command)
    assert (
        leaner[:2] == lean[:2]
        and leaner[2].endswith(f"stand_in_agent.py {os.getpid()}")
        and leaner[3] == "--head"
    )


def test_as_many_processes_wait_as_are_needed_first():
    command = ["raylet", "--num_prestart_python_workers=16", "--head"]
    assert own_ray._with_processes(3, command) == ["raylet", "--num_prestart_python_workers=3", "--head"]


def test_ray_s_commands_are_its_own_again_afterwards():
    before = own_ray.services.start_ray_process
    with own_ray._commands_changed(list):
        assert own_ray.services.start_ray_process is not before
    assert own_ray.services.start_ray_process is before


def test_the_driver_does_not_import_torch():
    """Over a second on a core, before the first worker may start."""
    code = f"import {_DRIVER_S}, sys; print(sorted({{'torch', 'mlflow'}} & sys.modules.keys()))"
    variables = {**os.environ, "RAY_TRAIN_V2_ENABLED": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
