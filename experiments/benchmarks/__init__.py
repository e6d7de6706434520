"""Speed, memory and scaling against what others offer: cells, peers, timing."""
