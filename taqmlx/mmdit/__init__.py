"""Multimodal diffusion transformer (MMDiT): linear layers by name, and the forward."""
