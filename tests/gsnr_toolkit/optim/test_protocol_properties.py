"""Whatever way a SAM step is taken, and whatever is around it, it equals the formula: generated programs."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsnr_toolkit.errors import ProbeWarning
from tests.support.sam_programs import PROGRAMS, STEPS, Program, Run, Step
from tests.support.sam_refused import WRONG
from tests.support.sam_twin import Twin

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=1000)
NAMES = st.lists(st.sampled_from(sorted(WRONG)), min_size=4, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def _one_process():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def check(program):
    run, twin = Run(program), Twin(program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=ProbeWarning)
        warnings.filterwarnings("ignore", message=".*is not finite: the step is skipped")
        mine = list(run.run())
    # in half precision, a last bit of a weight may decide how another number is rounded
    tolerance = 2e-3 if program.dtype == torch.float32 else 1e-9
    for index, (values, expected) in enumerate(zip(mine, twin.run(), strict=True)):
        for value, right in zip(values, expected, strict=True):
            torch.testing.assert_close(
                value, right, rtol=tolerance, atol=tolerance, msg=lambda m, i=index: f"step {i}: {m}"
            )
    assert (run.optimizer.steps, run.optimizer.skipped) == (len(program.steps), twin.skipped)
    assert run.counts["steps"] == len(program.steps)
    assert run.counts["base steps"] == len(program.steps) - twin.skipped
    if run.scaler:
        assert run.scaler.get_scale() == 2.0 ** (16 - twin.skipped)
    return run, twin


@QUICK
@given(program=PROGRAMS)
def test_programs(program):
    check(program)


@pytest.mark.slow
@LONG
@given(program=PROGRAMS)
def test_many_programs(program):
    check(program)


def with_wrong(program, names):
    steps = [Step(**{**vars(step), "wrong": name}) for step, name in zip(program.steps, names, strict=False)]
    return Program(**{**vars(program), "steps": tuple(steps), "hooks": False})


@QUICK
@given(program=PROGRAMS, names=NAMES)
def test_wrong_acts_leave_no_trace(program, names):
    check(with_wrong(program, names))


@pytest.mark.slow
@LONG
@given(program=PROGRAMS, names=NAMES)
def test_many_wrong_acts(program, names):
    check(with_wrong(program, names))


@QUICK
@given(step=STEPS.filter(lambda step: step.protocol != "m-sharpness" and not step.needless))
def test_hooks_see_each_pass_once(step):
    run, twin = check(Program("sgd", (step,), hooks=True))
    assert run.counts["gradients"] == run.counts["accumulated"] == run.counts["forwards"] == twin.forwards
