"""The simulation of scalers: loads, policies, and a world of workers that they steer."""
