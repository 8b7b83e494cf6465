"""Records decisions of highway-env's crossroads for test_intersection.py, which must not depend on that package.

From the project's folder:

    uv run --no-project --with highway-env==1.12.1 python tests/envs/data/highway_intersection.py

Before each decision the clock of precedence is set to that of an episode's first, which Engram's version always has.
"""

import json
from pathlib import Path

import gymnasium
import highway_env
import numpy as np

EPISODES = 10
CLOCK = 45  # simulation steps before the first decision
TURNS = {3: 1, 1: 2, 2: 3}  # destination minus origin, counted in corners: right, left, straight


class Recorded:
    """Remembers the scene that a decision led to, before vehicles leave and join."""

    def __init__(self, env: gymnasium.Env):
        self.env, self.after, clear = env, [], env._clear_vehicles

        def cleared() -> None:
            self.after = self.scene()
            clear()

        env._clear_vehicles = cleared

    def scene(self) -> list:
        """All vehicles, the agent's first."""
        others = [vehicle for vehicle in self.env.road.vehicles if vehicle is not self.env.vehicle]
        return [self.row(vehicle) for vehicle in [self.env.vehicle, *others]]

    def row(self, vehicle) -> list:
        """x, y, heading, speed, target, exponent, corner, turn, leg, crashed; on the way out any fitting origin."""
        leg = {"o": 0, "ir": 1, "il": 2}[vehicle.target_lane_index[0][:-1]]
        road, destination = int(vehicle.target_lane_index[0][-1]), int(vehicle.route[-1][1][-1])
        corner, turn = (road, TURNS[(destination - road) % 4]) if leg < 2 else ((destination + 1) % 4, 1)
        motion = [*vehicle.position, vehicle.heading, vehicle.speed, vehicle.target_speed, getattr(vehicle, "DELTA", 4)]
        return [round(float(number), 6) for number in motion] + [corner, turn, leg, int(vehicle.crashed)]

    def episode(self, seed: int, generator: np.random.Generator) -> list[dict]:
        """Every decision of an episode with random actions."""
        self.env.reset(seed=seed)
        cases, over = [], False
        while not over:
            self.env.road.steps = CLOCK
            before, action = self.scene(), int(generator.integers(3))
            observation, reward, terminated, truncated, _ = self.env.step(action)
            shown = [[round(float(number), 6) for number in row] for row in observation if row.any()]
            arrived, over = bool(self.env.has_arrived(self.env.vehicle)), bool(terminated or truncated)
            cases.append(dict(before=before, action=action, after=self.after, observation=shown))
            cases[-1] |= dict(reward=round(float(reward), 6), terminated=bool(terminated), arrived=arrived)
        return cases


def main() -> None:
    """Write highway_intersection.json beside this file."""
    gymnasium.register_envs(highway_env)
    recorded = Recorded(gymnasium.make("intersection-v2").unwrapped)
    generator = np.random.default_rng(0)
    cases = [case for seed in range(EPISODES) for case in recorded.episode(seed, generator)]
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path(__file__).with_suffix(".json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
