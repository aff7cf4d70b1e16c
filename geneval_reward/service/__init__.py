"""The reward as a service: one wire schema, a server, a client, and the protocols of other trainers."""
