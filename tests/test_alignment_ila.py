"""The paper architecture against a naive computation of Eq. 1-10, frame by frame and patch by patch."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from ila_hf import ILAForVideoTextClassification
from ila_hf.alignment_ila import ILAConv2d, ILAMask


def linear(x, module):
    return x @ module.weight.T + (0 if module.bias is None else module.bias)


def layer_norm(x, module):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + module.eps).sqrt() * module.weight + module.bias


def batch_norm(x, module, training):
    """(M, C, h, w); in training with the statistics of the batch."""
    mean, variance = module.running_mean, module.running_var
    if training:
        mean = x.mean((0, 2, 3))
        variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
    scale = module.weight / (variance + module.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + module.bias[:, None, None]


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def attention(queries, keys, values, heads):
    """Eq. 3b with loops over heads and queries; (S, D), (R, D), (R, D) -> (S, D)."""
    width = queries.shape[1] // heads
    rows = []
    for query in queries:
        parts = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = torch.softmax(keys[:, part] @ query[part] / math.sqrt(width), 0)
            parts.append((weights[:, None] * values[:, part]).sum(0))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def clip_layer(z, layer, heads):
    """Eq. 3b and 4: one pre-LayerNorm transformer block on (S, D)."""
    x = layer_norm(z, layer.layer_norm1)
    block = layer.self_attn
    x = attention(linear(x, block.q_proj), linear(x, block.k_proj), linear(x, block.v_proj), heads)
    z = z + linear(x, block.out_proj)
    x = linear(quick_gelu(linear(layer_norm(z, layer.layer_norm2), layer.mlp.fc1)), layer.mlp.fc2)
    return z + x


def max_pool(x):
    """2×2, stride 2, the last odd row and column left out."""
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    return torch.stack([x[:, :, i::2, j::2] for i in range(2) for j in range(2)]).amax(0)


def interaction_and_points(pairs, alignment, config, training):
    """Eq. 5: pairs (M, 2D, h, w) -> interaction (M, C, h, w) and points (M, 2, 2)."""
    layers, prediction = alignment.interaction, alignment.prediction
    x = pairs
    if config.alignment_operator == "window_attention":
        x = window_attention(x, alignment.interaction, 2 * config.num_attention_heads)
        layers = ()
    for i in range(0, len(layers), 3):
        x = conv2d(x, layers[i].weight, layers[i].bias, padding=layers[i].kernel_size[0] // 2, groups=layers[i].groups)
        x = batch_norm(x, layers[i + 1], training).clamp(min=0)
    interaction = x
    for convolution, norm in ((prediction.conv1, prediction.norm1), (prediction.conv2, prediction.norm2)):
        if config.alignment_conv == "separable":
            x = batch_norm(conv2d(max_pool(x), convolution.weight, convolution.bias, padding=1), norm, training)
        else:
            x = max_pool(batch_norm(conv2d(x, convolution.weight, convolution.bias, padding=1), norm, training))
        x = x.clamp(min=0)
    x = x.amax((2, 3))
    points = []
    for frame in range(2):  # two groups: the first half of the channels is the previous frame's
        half = x[:, frame * x.shape[1] // 2 : (frame + 1) * x.shape[1] // 2]
        hidden = prediction.fc1.out_channels // 2
        rows = slice(frame * hidden, (frame + 1) * hidden)
        half = (half @ prediction.fc1.weight[rows, :, 0, 0].T + prediction.fc1.bias[rows]).clamp(min=0)
        rows = slice(frame * 2, frame * 2 + 2)
        points.append(half @ prediction.fc2.weight[rows, :, 0, 0].T + prediction.fc2.bias[rows])
    return interaction, 0.75 * torch.tanh(torch.stack(points, 1))


def window_attention(pairs, operator, heads):
    """A row of Table 8, place by place: (M, 2D, h, w) -> (M, C, h, w)."""
    height, width = pairs.shape[2:]
    places = [(i, j) for i in range(height) for j in range(width)]
    found = []
    for pair in pairs:
        x = pair.flatten(1).T  # (N, 2D)
        for layer in (operator.attention1, operator.attention2):
            q, k, v = linear(layer_norm(x, layer.norm), layer.qkv).chunk(3, dim=1)
            rows = []
            for n, (i, j) in enumerate(places):
                near = [m for m, (a, b) in enumerate(places) if abs(a - i) <= 1 and abs(b - j) <= 1]
                rows.append(attention(q[n : n + 1], k[near], v[near], heads))
            x = x + linear(torch.cat(rows), layer.out)
        found.append(linear(x, operator.fc).T.unflatten(1, (height, width)))
    return torch.stack(found)


def naive_mask(point, height, width, training, euclidean=False, scale=1.0):
    """Eq. 6, patch by patch; in training the mean over nine shifted points."""
    shifts = [-1, 0, 1] if training else [0]
    rows = []
    for i in range(height):
        row = []
        for j in range(width):
            values = []
            for a in shifts:
                for b in shifts:
                    dx = (-1 + 2 * j / (width - 1) - (point[0] + 0.2 * scale * a)).abs()
                    dy = (-1 + 2 * i / (height - 1) - (point[1] + 0.2 * scale * b)).abs()
                    if euclidean:
                        values.append(naive_profile((dx**2 + dy**2).sqrt()))
                    else:
                        values.append(naive_profile(dx) * naive_profile(dy))
            row.append(sum(values) / len(values))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def naive_profile(distance, peak=1.0, radius=0.25, slope=1.5):
    if distance <= radius:
        return peak + 0 * distance
    value = peak - slope * (distance - radius)
    return value if value > 0 else 0 * distance


def naive_trunk(model, clips, training):
    """Eq. 2-4, 6, 7, 9, 10: (B, T, 3, H, W) -> tokens of the last layer (B, T, L, D) and the loss of every layer."""
    vision, config = model.vision_model, model.config.vision_config
    embeddings, patch = vision.embeddings, config.patch_size
    batch, num_frames, _, size, _ = clips.shape
    grid = size // patch
    z = []
    for clip in clips:
        for frame in clip:
            tokens = [embeddings.class_embedding]
            for i in range(grid):
                for j in range(grid):
                    piece = frame[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                    tokens.append((embeddings.patch_embedding.weight * piece).sum((1, 2, 3)))
            tokens = torch.stack(tokens) + embeddings.position_embedding.weight
            z.append(layer_norm(tokens, vision.pre_layrnorm))
    z = torch.stack(z).unflatten(0, (batch, num_frames))
    losses = []
    for layer in vision.encoder.layers:
        pairs = [(b, t - 1, t) for b in range(batch) for t in range(1, num_frames)]
        if config.first_frame == "self":
            pairs = [(b, max(t - 1, 0), t) for b in range(batch) for t in range(num_frames)]
        if config.reference_frame != "previous":
            r = {"first": 0, "middle": num_frames // 2}[config.reference_frame]
            pairs = [(b, r, t) for b in range(batch) for t in range(num_frames)]
        maps = [
            torch.cat([z[b, t, 1:].T.unflatten(1, (grid, grid)) for t in (previous, current)])
            for b, previous, current in pairs
        ]
        interaction, points = interaction_and_points(torch.stack(maps), layer.temporal.alignment, config, training)
        mutual = [[None] * num_frames for _ in range(batch)]
        seen = [[None] * num_frames for _ in range(batch)]
        whole = [[None] * num_frames for _ in range(batch)]
        distances = []
        for pair, (b, previous, current) in enumerate(pairs):
            pooled, maps = [], []
            for which, t in enumerate((previous, current)):
                mask = naive_mask(points[pair, which], grid, grid, training)
                aligned = z[b, t, 1:] * mask.flatten()[:, None]  # Eq. 7
                maps.append(aligned)
                pooled.append(aligned.sum(0) / grid**2)  # Eq. 3a
            mutual[b][current], whole[b][current] = pooled[1], maps[1]
            seen[b][current] = interaction[pair].amax((1, 2))
            if previous == 0 and config.first_frame == "next" and config.reference_frame == "previous":
                mutual[b][0], seen[b][0], whole[b][0] = pooled[0], seen[b][1], maps[0]
            if previous != current:
                cosine = (pooled[0] @ pooled[1]) / (pooled[0].norm() * pooled[1].norm())  # Eq. 9
                distances.append(1 - cosine)
        losses.append(sum(distances) / len(distances))
        frames = []
        for b in range(batch):
            for t in range(num_frames):
                tokens = [*z[b, t], mutual[b][t]]
                if config.alignment_join == "concatenate":
                    tokens = [*z[b, t], *whole[b][t]]
                elif config.alignment_join == "add":
                    tokens = [z[b, t, 0], *(z[b, t, 1:] + whole[b][t])]
                if config.interaction_token:
                    tokens.append(linear(seen[b][t], layer.temporal.interaction_fc))
                frames.append(clip_layer(torch.stack(tokens), layer, config.num_attention_heads)[: z.shape[2]])
        z = torch.stack(frames).unflatten(0, (batch, num_frames))
    return z, losses


def naive_logits(model, z, text):
    """Eq. 1 and 8 with the text prompt: tokens (B, T, L, D) and text features (K, E) -> (B, K)."""
    logits = []
    for clip in z:
        frames = linear(layer_norm(clip[:, 0], model.vision_model.post_layernorm), model.visual_projection)
        x = frames + model.integration.position_embedding[0]
        for layer in model.integration.layers:
            x = clip_layer(x, layer, model.config.head_num_attention_heads)
        video = (frames + x).mean(0)
        prompt = model.prompt
        patches = linear(layer_norm(clip[:, 1:], prompt.patch_norm), prompt.patch_projection).mean(0)
        patches = layer_norm(patches, prompt.norm)
        texts = text
        for layer in prompt.layers:
            cross = layer.cross_attn
            queries = linear(layer_norm(texts, layer.norm1), cross.q_proj)
            keys, values = linear(patches, cross.k_proj), linear(patches, cross.v_proj)
            heads = model.config.head_num_attention_heads
            texts = texts + linear(attention(queries, keys, values, heads), cross.out_proj)
            hidden = quick_gelu(linear(layer_norm(texts, layer.norm2), layer.mlp[0]))
            texts = texts + linear(hidden, layer.mlp[2])
        texts = text + prompt.alpha * texts
        cosines = (texts @ video) / (texts.norm(dim=1) * video.norm())
        logits.append(model.logit_scale.exp() * cosines)
    return torch.stack(logits)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"alignment_conv": "dense"},
        {"first_frame": "self"},
        {"interaction_token": True},
        {"interaction_token": True, "first_frame": "self"},
        {"reference_frame": "first"},
        {"reference_frame": "middle", "interaction_token": True},
        {"alignment_join": "add"},
        {"alignment_join": "add", "interaction_token": True, "first_frame": "self"},
        {"alignment_join": "concatenate"},
        {"alignment_join": "concatenate", "interaction_token": True, "reference_frame": "middle"},
        {"alignment_operator": "window_attention"},
    ],
    ids=lambda vision: "-".join(map(str, vision.values())) or "default",
)
def test_paper_architecture_equals_the_naive_computation(tiny_model, vision, training):
    vision = {**vision, "num_hidden_layers": 2, "alignment_hidden_size": 32}
    model = tiny_model(vision=vision, training=training, num_frames=3, projection_dim=64)
    clips = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([1, 6])
    reference = ILAForVideoTextClassification(model.config)
    reference.load_state_dict(model.state_dict())
    reference.double()
    text = reference.get_text_features(reference.class_texts.input_ids).pooler_output

    z, losses = naive_trunk(reference, clips.double(), training)
    logits = naive_logits(reference, z, text)
    loss = cross_entropy(logits, labels) + 0.1 * sum(losses)
    loss.backward()
    outputs = model(clips, labels=labels, output_alignments=True)
    outputs.loss.backward()

    torch.testing.assert_close(outputs.logits.double(), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(outputs.alignment_losses).double(), torch.stack(losses), atol=1e-5, rtol=0)
    expected = dict(reference.named_parameters())
    assert any(".temporal." in name and parameter.grad is not None for name, parameter in model.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert expected[name].grad is None or not expected[name].grad.any(), name
            continue
        # A convolution's bias before BatchNorm has no gradient in training but rounding; hence the floor
        error = (parameter.grad.double() - expected[name].grad).norm()
        assert error <= 1e-3 * expected[name].grad.norm() + 1e-5, (name, float(error))


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_mask_equals_the_patchwise_definition(tiny_model, euclidean, training):
    config = tiny_model().config.vision_config
    config.mask_distance = "euclidean" if euclidean else "separable"
    mask = ILAMask(config).train(training)
    mask.jitter_scale.fill_(0.5)
    points = (torch.rand(6, 2, generator=torch.Generator().manual_seed(4)) * 1.5 - 0.75).requires_grad_()
    masks = mask(points, 5, 7)
    expected = torch.stack([naive_mask(point, 5, 7, training, euclidean, 0.5) for point in points])
    torch.testing.assert_close(masks, expected, atol=1e-6, rtol=0)
    weights = torch.randn(masks.shape, generator=torch.Generator().manual_seed(5))
    gradients = [torch.autograd.grad((x * weights).sum(), points, retain_graph=True)[0] for x in (masks, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_the_constants_of_the_mask_come_from_the_configuration(tiny_model):
    config = tiny_model().config.vision_config
    config.mask_peak, config.mask_radius, config.mask_slope = 2.0, 0.1, 0.7
    config.mask_jitter, config.mask_jitter_decay_epoch = 0.3, 5
    point = torch.tensor([0.2, -0.3])

    def expected(shifts):
        mask = torch.zeros(4, 6)
        for i in range(4):
            for j in range(6):
                for a in shifts:
                    for b in shifts:
                        dx = abs(-1 + 2 * j / 5 - float(point[0]) - 0.3 * a)
                        dy = abs(-1 + 2 * i / 3 - float(point[1]) - 0.3 * b)
                        profiles = [max(2.0 - 0.7 * max(d - 0.1, 0.0), 0.0) for d in (dx, dy)]
                        mask[i, j] += profiles[0] * profiles[1] / len(shifts) ** 2
        return mask

    mask = ILAMask(config).eval()
    torch.testing.assert_close(mask(point, 4, 6), expected([0]), atol=1e-6, rtol=0)
    mask.set_epoch(6)  # s = 1/4
    torch.testing.assert_close(mask.train()(point, 4, 6), expected([-0.25, 0, 0.25]), atol=1e-6, rtol=0)


def test_points_stay_in_their_range(tiny_model, clips):
    model = tiny_model(vision={"point_range": 0.5})
    with torch.no_grad():
        for layer in model.vision_model.encoder.layers:
            layer.temporal.alignment.prediction.fc2.bias.fill_(20.0)
    points = model(clips, output_alignments=True).interactive_points
    assert all(torch.equal(x, torch.full_like(x, 0.5)) for x in points)


def test_euclidean_mask_has_finite_gradients_on_the_point(tiny_model):
    config = tiny_model().config.vision_config
    config.mask_distance = "euclidean"
    points = torch.zeros(1, 2, requires_grad=True)  # exactly on the middle patch of a 5×5 map
    ILAMask(config)(points, 5, 5).sum().backward()
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("grid", [(4, 4), (5, 6), (7, 7), (9, 4)])
@pytest.mark.parametrize("vision", [{}, {"alignment_conv": "dense"}, {"architecture": "released"}], ids=str)
def test_maps_of_many_sizes(tiny_model, vision, grid):
    model = tiny_model(vision=vision)
    clips = torch.randn(1, 3, 3, grid[0] * 8, grid[1] * 8)
    outputs = model(clips, interpolate_pos_encoding=True, output_alignments=True)
    assert outputs.alignment_masks[0].shape == (1, 2, 2, *grid)
    assert outputs.logits.isfinite().all()


def test_points_start_in_the_centre(clips):
    from ila_hf import ILAVisionModel
    from ila_hf.demo.tiny import tiny_config

    model = ILAVisionModel(tiny_config().vision_config).eval()
    outputs = model(clips, output_alignments=True)
    assert all(not points.any() for points in outputs.interactive_points)


def test_negative_cosine_is_equation_10(tiny_model, clips):
    model = tiny_model()
    distances = torch.stack(model(clips, output_alignments=True).alignment_losses)
    for layer in model.vision_model.encoder.layers:
        layer.temporal.loss_type = "negative_cosine"
    sums = torch.stack(model(clips, output_alignments=True).alignment_losses)
    torch.testing.assert_close(sums, (distances - 1) * (clips.shape[1] - 1))


def test_loss_type_comes_from_the_config(tiny_model):
    model = tiny_model(vision={"alignment_loss_type": "negative_cosine"})
    assert model(torch.randn(1, 4, 3, 32, 32), output_alignments=True).alignment_loss < 0


@pytest.mark.parametrize(
    ("kernel_size", "groups", "size"), [(1, 1, (4, 5)), (1, 2, (1, 1)), (1, 2, (3, 2)), (3, 1, (1, 1)), (3, 2, (1, 1))]
)
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_convolution(kernel_size, groups, size, bias):
    """Outputs and gradients, where only the centre of the kernel meets the map."""
    convolution = ILAConv2d(8, 6, kernel_size, padding=kernel_size // 2, groups=groups, bias=bias)
    maps = torch.randn(3, 8, *size, requires_grad=True)
    reference = conv2d(maps, convolution.weight, convolution.bias, padding=kernel_size // 2, groups=groups)
    found = convolution(maps)
    torch.testing.assert_close(found, reference)
    weights = torch.randn(found.shape)
    inputs = (maps, *convolution.parameters())
    gradients = [torch.autograd.grad((output * weights).sum(), inputs) for output in (found, reference)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("vision", [{}, {"first_frame": "self", "interaction_token": True}], ids=["next", "self"])
@torch.no_grad()
def test_tokens_without_the_loss_are_those_with_it(tiny_model, vision):
    """Only then are the masks of both halves of every pair computed."""
    temporal = tiny_model(vision=vision).vision_model.encoder.layers[0].temporal
    for num_frames in (1, 2, 5):
        hidden_states = torch.randn(2, num_frames, 17, 64)
        found, expected = (
            temporal(hidden_states[:, :, 1:], hidden_states[:, :, :1], (4, 4), wanted) for wanted in (False, True)
        )
        torch.testing.assert_close(found.tokens, expected.tokens)
        assert list(found) == ["tokens"]
        assert expected.loss is not None


class Copies(TorchDispatchMode):
    """Sizes of the tensors that are copied."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::clone", "aten::copy_", "aten::_to_copy"):
            self.sizes.add(output.numel())
        return output


@pytest.mark.parametrize("vision", [{}, {"architecture": "released"}], ids=["paper", "released"])
def test_the_loss_copies_no_patches(tiny_model, vision):
    """Neither in the forward nor in the backward pass: those of the pairs would be T - 1 of T frames, twice."""
    temporal = tiny_model(vision=vision, training=True).vision_model.encoder.layers[0].temporal
    pairs = temporal.align(torch.randn(2, 5, 16, 64), (4, 4))
    masks = temporal.alignment.mask(pairs.points, 4, 4)
    patches = torch.randn(2, 5, 17, 64, requires_grad=True)[:, :, 1:]
    with Copies() as copies:
        temporal.alignment_outputs(pairs, masks, pairs.pool(patches, masks, mean=True))["loss"].backward()
    assert 2 * 4 * 16 * 64 not in copies.sizes
