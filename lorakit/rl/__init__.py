"""What both engines of reinforcement learning share: episodes, objective, sampling."""
