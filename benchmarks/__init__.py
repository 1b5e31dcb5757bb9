"""Our speed and memory as ratios within one run; see README.md here. No other room imports this one."""
