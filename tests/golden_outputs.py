"""What a model computes from the golden clips, under the names of the golden values; it needs torch alone."""

import torch


def golden_outputs(model, clips, labels, training):
    """Outputs, losses and, in training, the norm of every gradient: `grad_norm.NAME` for parameter NAME."""
    features = {}
    hooks = [
        model.vision_model.register_forward_hook(lambda module, args, output: features.update(vision=output)),
        model.integration.register_forward_hook(lambda module, args, output: features.update(video=output)),
    ]
    has_text = hasattr(model, "class_texts")
    if not has_text:
        model.dropout.p = 0.0  # the golden values were computed without
    model.train(training)
    outputs = model(clips, labels=labels, output_alignments=True, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    patches = features["vision"].last_hidden_state[:, :, 1:]
    values = {
        "logits": outputs.logits,
        "alignment_loss_per_layer": torch.stack(outputs.alignment_losses),
        "classification_loss": outputs.classification_loss,
        "total_loss": outputs.loss,
        "img_features": model.prompt.patch_features(patches) if has_text else patches,
        # The linear model's are its logits in the golden values
        **({"video_features": features["video"], "text_features": model.class_features()} if has_text else {}),
    }
    # The embeddings come first
    for name, layers in (
        ("points", outputs.interactive_points),
        ("alignment_tokens", outputs.mutual_information_tokens),
        ("hidden_states", outputs.hidden_states[1:]),
    ):
        values |= {f"{name}.{i}": layer for i, layer in enumerate(layers)}
    if training:
        outputs.loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        values |= {
            f"grad_norm.{name}": gradient.norm() for name, gradient in gradients.items() if gradient is not None
        }
        model.zero_grad()
    return {name: value.detach().contiguous() for name, value in values.items()}
