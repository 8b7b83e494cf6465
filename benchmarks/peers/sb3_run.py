"""One run of Stable-Baselines3's DQN; prints one JSON line."""
# pyright: reportMissingImports=false

from meter import Meter, arguments, job_of
from stable_baselines import measure
from stable_baselines3 import DQN


def main() -> None:
    options = arguments("Stable-Baselines3 DQN")
    job = job_of(options)
    network = {} if job.pixels else {"net_arch": list(job.widths)}
    measure(DQN, job, Meter("sb3", job, options.started), network)


if __name__ == "__main__":
    main()
