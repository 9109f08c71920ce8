"""Store and compute in eight bits."""
