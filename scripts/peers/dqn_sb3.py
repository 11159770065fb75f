"""Peer: Stable-Baselines3's DQN on CartPole-v1 as its authors tuned it: 4-256-256-2, 128 updates of batch 64 after each 256
steps, one thread. Counts environment steps per second, learning included. Usage: dqn_sb3.py STEPS"""

import json
import sys
import time

import torch
from stable_baselines3 import DQN

torch.set_num_threads(1)
steps, start = int(sys.argv[1]), 1024
learner = DQN(
    "MlpPolicy",
    "CartPole-v1",
    learning_rate=2.3e-3,
    batch_size=64,
    buffer_size=100_000,
    learning_starts=start,
    train_freq=256,
    gradient_steps=128,
    target_update_interval=10,
    exploration_fraction=8000 / (steps + start),
    exploration_final_eps=0.04,
    policy_kwargs={"net_arch": [256, 256]},
    seed=0,
    device="cpu",
)
learner.learn(start)
clock = time.perf_counter()
learner.learn(steps, reset_num_timesteps=False)
value = round(steps / (time.perf_counter() - clock))
print(json.dumps({"peer": "dqn_sb3", "unit": "environment steps/s", "value": value}))
