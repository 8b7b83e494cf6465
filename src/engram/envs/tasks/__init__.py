"""Tasks written in JAX that run inside the compiled loop."""
