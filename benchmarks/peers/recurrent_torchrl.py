"""One run of TorchRL's recurrent DQN on CartPole without velocities; prints one JSON line.

The parts are those of TorchRL's own tutorial on recurrent DQN: an LSTM module beside its primer, slices of sequences
out of a replay, DQNLoss with a target that follows slowly. `--every` environment steps make one update.
"""

import argparse
import json
import sys
import time
import warnings

import torch  # noqa: TID251 (a peer of its own environment)
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import Compose, GymEnv, InitTracker, ObservationTransform, StepCounter, TransformedEnv
from torchrl.modules import MLP, EGreedyModule, LSTMModule, QValueModule, set_recurrent_mode
from torchrl.objectives import DQNLoss, SoftUpdate

warnings.filterwarnings("ignore")


class Positions(ObservationTransform):
    """The position of the cart and the angle of the pole, without velocities."""

    def __init__(self) -> None:
        super().__init__(in_keys=["observation"], out_keys=["observation"])

    def _apply_transform(self, observation: torch.Tensor) -> torch.Tensor:
        return observation[..., [0, 2]]

    def _reset(self, tensordict, tensordict_reset):
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec):
        space = observation_spec["observation"]
        observation_spec["observation"] = type(space)(space.low[[0, 2]], space.high[[0, 2]], shape=(2,))
        return observation_spec


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("steps", "warm", "every", "window", "batch", "width", "seed"):
        parser.add_argument(f"--{name}", type=int)
    job = parser.parse_args()
    torch.manual_seed(job.seed)
    torch.set_num_threads(1)
    lstm = LSTMModule(input_size=128, hidden_size=job.width, in_key="embed", out_key="embed")
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(Positions(), InitTracker(), StepCounter()))
    env.append_transform(lstm.make_tensordict_primer())
    env.set_seed(job.seed)
    encode = TensorDictModule(
        MLP(in_features=2, out_features=128, num_cells=[128], activation_class=torch.nn.ReLU, activate_last_layer=True),
        in_keys=["observation"],
        out_keys=["embed"],
    )
    head = TensorDictModule(torch.nn.Linear(job.width, 2), in_keys=["embed"], out_keys=["action_value"])
    policy = TensorDictSequential(encode, lstm, head, QValueModule(spec=env.action_spec))
    exploring = TensorDictSequential(policy, EGreedyModule(env.action_spec, 1.0, 0.05, annealing_num_steps=5000))
    loss = DQNLoss(policy, action_space="one-hot", delay_value=True)
    follow = SoftUpdate(loss, eps=0.995)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4)
    replay = TensorDictReplayBuffer(
        storage=LazyTensorStorage(50_000),
        sampler=SliceSampler(slice_len=job.window, traj_key=("collector", "traj_ids"), strict_length=True),
        batch_size=job.batch * job.window,
    )
    collector = Collector(env, exploring, frames_per_batch=job.every, total_frames=job.warm + job.steps)
    done, updates, start = 0, 0, 0.0
    for block in collector:
        replay.extend(block.cpu())
        done += block.numel()
        if done >= job.warm and not start:
            start = time.perf_counter()
        if done < 500:
            continue
        with set_recurrent_mode(True):  # the LSTM goes along each slice, which lies within one episode
            loss(replay.sample().reshape(job.batch, job.window))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        follow.step()
        exploring[-1].step(block.numel())
        updates += bool(start)
    seconds = time.perf_counter() - start
    collector.shutdown()
    rate = {"peer": "torchrl", "steps_per_second": (done - job.warm) / seconds, "updates": updates}
    json.dump(rate, sys.stdout)


if __name__ == "__main__":
    main()
