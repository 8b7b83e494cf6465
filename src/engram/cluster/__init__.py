"""What crosses machines: numbered blocks, shards of an external memory, and their accounts. Knows no Ray, no JAX."""
