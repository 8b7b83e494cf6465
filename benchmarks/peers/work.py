"""The work that every peer does, so that the numbers compare: written once, read by every peer's script.

Steps are environment steps (for Pong: agent steps of four frames) summed over the environments; updates are
gradient steps on one batch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One task: what is played, how much is learned, and from which step on the speed is taken."""

    task: str
    environment: str
    envs: int
    steps: int
    seed: int
    learning_starts: int
    steady_from: int  # the rate is that of the steps from here to the end
    collect: int  # environment steps between two calls that learn
    updates_per_call: int
    batch: int
    replay: int
    learning_rate: float
    target_every: int  # environment steps between two hard copies of the target network
    exploration_steps: int  # epsilon falls from 1 to `exploration_end` over these
    exploration_end: float = 0.02
    discount: float = 0.99
    widths: tuple[int, int] = (128, 128)  # of the MLP; Pong has the Nature CNN with 512 units instead

    @property
    def pixels(self) -> bool:
        """Whether observations are images."""
        return self.environment.startswith("ALE/")

    @property
    def expected_updates(self) -> int:
        """Gradient steps that this schedule makes: none up to and including step `learning_starts`."""
        calls = -(-self.steps // self.collect) - self.learning_starts // self.collect
        return max(calls, 0) * self.updates_per_call


TASKS = ("cartpole-1", "cartpole-8", "device", "pong")


def work(task: str, steps: int, seed: int, grouped: bool = False) -> Work:
    """The work called `task` over `steps` environment steps: one update per four steps in every case.

    Args:
      task: one of TASKS.
      steps: environment steps in all.
      seed: seed of the peer, >= 0.
      grouped: learn eight updates after 32 steps instead of two after 8 (only with eight environments); the
        schedule that favours peers which fuse the updates of one call.

    Raises ValueError for an unknown task, or for too few steps to learn in.
    """
    if task not in TASKS:
        raise ValueError(f"no task is called {task!r}; known: {', '.join(TASKS)}")
    if steps <= 1_200:
        raise ValueError(f"{steps} steps leave nothing to measure: learning starts at step 1,000; give 1,201 or more")
    if task == "pong":
        return Work(
            task=task, environment="ALE/Pong-v5", envs=1, steps=steps, seed=seed, learning_starts=1_000,
            steady_from=1_200, collect=4, updates_per_call=1, batch=32, replay=10_000, learning_rate=1e-4,
            target_every=1_000, exploration_steps=1_000,
        )  # fmt: skip
    envs = {"cartpole-1": 1, "cartpole-8": 8, "device": 4}[task]
    updates = {"cartpole-1": 1, "cartpole-8": 8 if grouped else 2, "device": 1}[task]
    return Work(
        task=task, environment="CartPole-v1", envs=envs, steps=steps, seed=seed, learning_starts=1_000,
        steady_from=5_000 if steps > 10_000 else max(1_100, steps // 2), collect=4 * updates, updates_per_call=updates,
        batch=64, replay=50_000, learning_rate=1e-3, target_every=500, exploration_steps=5_000,
    )  # fmt: skip
