"""What all tests share: one thread, no network, and norms that keep float64 where a test asks for it."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def exact_norms(monkeypatch):
    """LLaMA's RMSNorm computes in float32 whatever it is given; here it keeps the dtype."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden * torch.rsqrt(variance + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
