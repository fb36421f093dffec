"""The offline demo: synthetic phone screens for many users, and a tiny real Qwen3-VL that can read them.

``screens`` draws, ``styles`` says what is personal about a user, ``dataset`` writes the raw dataset.
``base`` builds the untrained model and its processor and ``pretraining`` teaches it; only these two
import torch.
"""
