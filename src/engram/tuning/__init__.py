"""Search for good settings of an agent, with Optuna (extra `tune`)."""
