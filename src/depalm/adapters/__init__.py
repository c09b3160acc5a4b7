"""The only trainable part: connectors and resamplers, injected prompts, bias tuning."""
