"""One run of SBX's DQN; prints one JSON line. With --grouped as its fused updates like it best."""
# pyright: reportMissingImports=false

from meter import Meter, arguments, job_of
from sbx import DQN
from stable_baselines import measure


def main() -> None:
    options = arguments("SBX DQN", grouped="eight updates after 32 steps (with eight environments)")
    job = job_of(options)
    # SBX reads the first width only, for both layers; 512 is the Nature CNN's, which is not its default.
    network = {"net_arch": [512] if job.pixels else list(job.widths)}
    measure(DQN, job, Meter("sbx-grouped" if options.grouped else "sbx", job, options.started), network)


if __name__ == "__main__":
    main()
