"""Per-sample gradients: engines that stream them, none of which knows a statistic."""
