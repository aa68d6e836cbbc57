"""The multimodal diffusion transformer: its linear layers by name, and its forward."""
