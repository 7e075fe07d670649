"""The benchmark of the scaler on a real node: real pods, five minutes a trace."""
