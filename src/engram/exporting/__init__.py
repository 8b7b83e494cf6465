"""A trained agent in formats of others: ONNX, StableHLO, and a folder with what a user of another library needs."""
