"""The work of a peer's script of `speed/rollouts.py`, as its command line says it."""

import argparse


def job_given() -> argparse.Namespace:
    """Algorithm and environment by their names there, and the sizes."""
    parser = argparse.ArgumentParser()
    for name in ("algorithm", "env"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--layers", default="dense")  # or "convolution", for boards
    for name in ("envs", "steps", "epochs", "minibatches", "rollouts", "width", "seed"):
        parser.add_argument(f"--{name}", type=int)
    return parser.parse_args()
