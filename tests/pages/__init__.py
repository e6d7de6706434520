"""The Python and the commands of README, CONTRIBUTING and docs/, run or parsed as printed."""
