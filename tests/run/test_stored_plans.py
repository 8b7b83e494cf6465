"""Plans of runs from before some of today's settings still read, and are the same plans.

A checkpoint holds the digest of its plan, so a run goes on only where that is what it was when the run was stored.
"""

import shutil
from pathlib import Path

import pytest

from engram.run.plan import RunPlan

STORED = Path(__file__).parent / "stored"
DIGESTS = {"cartpole": "1d4c15d1d34e5105", "ppo": "83e8f6ab9301b6a3", "driving": "c4724b0fd147974c"}


@pytest.mark.parametrize("name", DIGESTS)
def test_a_plan_that_was_stored_reads_with_the_digest_that_it_had(name: str, tmp_path: Path):
    shutil.copy(STORED / f"{name}.json", tmp_path / "run.json")
    plan = RunPlan.read(tmp_path)
    assert plan.digest().startswith(DIGESTS[name])
    assert plan.agents == 1
    assert not plan.agent.mixing.present
