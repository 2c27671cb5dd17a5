"""The public surface is frozen: a name that goes away or comes new is a decision, not an accident."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SURFACE = {
    "adain": {"adain"},
    "attention": {
        "blend_queries",
        "dense_mask",
        "dense_masked_attention",
        "full_attention",
        "gather_rows",
        "masked_attention",
    },
    "attention_hooks": {"CaptureHook", "InjectHook", "Selection"},
    "blender.camera": {"Camera", "CameraPath", "look_at"},
    "blender.job": {"RenderJob", "geometry_name", "picture_name"},
    "blender.matches": {"at_centres", "coverage", "match_frames"},
    "blender.render": {"check_job", "run_blender", "task_info", "write_clip"},
    "dataset": {
        "MaskSource",
        "Task",
        "correspondence_name",
        "find_tasks",
        "frame_name",
        "hash_files",
        "load_task",
        "read_info",
        "reference_name",
    },
    "dataset_correspondence": {"FrameCorrespondence", "load_frame_correspondence", "save_frame_correspondence"},
    "dataset_info": {"TaskInfo", "check_name", "clip_name"},
    "dataset_tasks": {"TwoLooks", "grey", "write_colorization", "write_general", "write_rendered"},
    "dataset_writer": {"TaskWriter", "check_free", "is_made", "write_index"},
    "checks": {
        "InputError",
        "ShapeError",
        "Zero2HeroError",
        "check_images",
        "check_index",
        "check_range",
        "check_shape",
    },
    "correspondence": {
        "Correspondence",
        "LevelMatches",
        "adaptive_counts",
        "cycle_error",
        "level_k",
        "match_confidence",
        "match_features",
        "resize_features",
        "top_k_matches",
        "unit_tokens",
    },
    "correspondence_track": {
        "ClipTrack",
        "between_tokens",
        "distances",
        "follow_tokens",
        "near_places",
        "read_places",
        "search_near",
        "token_places",
    },
    "correspondence_file": {"ClipCorrespondence", "load_correspondences", "save_correspondences"},
    "metrics": {"pck", "psnr"},
    "metrics_learned": {
        "LpipsNetwork",
        "lpips",
        "lpips_distance",
        "measure_authors",
        "motion_smoothness",
        "subject_consistency",
    },
    "metrics_networks": {"AlexNetLpips", "DinoFeatures", "load_amt", "load_dino", "load_lpips"},
    "metrics_ssim": {"authors_form", "check_pair", "ssim", "weighted_mean"},
    "metrics_video": {
        "ClipFlows",
        "clip_flows",
        "flicker",
        "flicker_excess",
        "tof",
        "visible_pixels",
        "warp_error",
    },
    "pictures": {"coordinate_colours", "labelled_grid", "matches_picture"},
    "pixel_swap": {"pixel_swap"},
    "schedule": {"DDIMSchedule", "ddim_move", "stable_diffusion_alphas"},
    "video": {"FrameSource", "frame_rate", "open_frames"},
    "video_writer": {"VideoWriter"},
    "memory_batches": {"halving", "is_out_of_memory"},
    "zero_stage": {"ZeroStage"},
    "zero_stage_latents": {"LatentEditor", "Stopwatch", "ZeroStageSettings"},
    "backbones.unet": {
        "AttentionHook",
        "Posterior",
        "HookSlot",
        "HookedAttention",
        "UNetBackbone",
        "UNetCalls",
        "decoder_attentions",
        "output_of",
    },
    "backbones.loading": {"SDParts", "load_backbone", "load_parts"},
    "condition_tokens": {
        "Condition",
        "ConditionCapture",
        "ConditionInject",
        "PassEnds",
        "attend",
        "from_tokens",
        "pack_latents",
        "position_ids",
        "to_tokens",
        "unpack_latents",
    },
    "flow_schedule": {"draw_sigma", "flow_sigmas", "flux1_mu", "flux2_mu", "mix_noise"},
    "hero_training_latents": {"encode_clip"},
    "tensor_file": {"write_tensors"},
    "zero_stage_matches": {"narrow_matches", "weak_share"},
    "flow_propagation": {
        "chain_flows",
        "check_flow_pair",
        "dis_flow",
        "propagate_frames",
        "propagate_reference",
        "warp_backward",
    },
    "flow_raft": {"load_raft"},
    "weight_files": {"find_weights", "hub_file", "read_weights"},
    "hero_memory": {
        "MemoryEstimate",
        "Pass",
        "condition_bytes",
        "estimate_restoring",
        "estimate_training",
        "kept_by_block",
        "kept_by_pass",
    },
    "hero_model_size": {"ModelSize"},
    "hero_stage": {"HeroStage"},
    "hero_training": {"HeroSettings", "HeroTrainer"},
    "hero_training_pairs": {"ClipLatents", "PairViews", "TrainingPair", "training_pairs"},
    "hero_training_views": {"moved", "pair_views"},
    "hero_training_run": {"Evaluation", "RunSettings", "TrainingRun"},
    "relight": {"relight"},
    "training_log": {"EarlyStop", "TrainingLog", "smoothed"},
    "backbones.dit": {"DiTBackbone", "Family", "LatentCodec", "PlainCodec", "TextEmbedding"},
    "backbones.dit_attention": {
        "HookedJointAttention",
        "HookedParallelAttention",
        "Rotary",
        "attention_layers",
        "install_hooks",
    },
    "backbones.dit_concatenated": {"concatenated_velocity", "peft_condition_lora"},
    "backbones.dit_codec": {"Flux2Codec", "ParkedCodec", "load_codec"},
    "backbones.dit_loading": {"load_dit"},
    "backbones.dit_precision": {"Float8Linear", "check_weights", "store_linear", "store_weights", "stored_linears"},
    "backbones.dit_restore": {"RestoreSettings", "restore_latents", "run_conditions"},
    "backbones.dit_text": {"encode_prompt", "read_text", "save_text"},
    "backbones.lora": {"HeroLoRA", "checkpoint_blocks"},
    "backbones.lora_file": {"HeroMetadata", "load_lora", "read_metadata", "save_lora"},
}


@pytest.mark.parametrize("module", SURFACE)
def test_public_names(module: str, repository: Path) -> None:
    file = repository / "zero2hero_core" / (module.replace(".", "/") + ".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    public = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert {node.name for node in public} == SURFACE[module]
    assert all(ast.get_docstring(node) for node in public)


def test_docstrings_everywhere(repository: Path) -> None:
    """Every public function, class and method of the core says what it does."""
    missing = []
    for file in sorted((repository / "zero2hero_core").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                inner = node.body if not node.name.startswith("_") else []
                named = [node, *(item for item in inner if isinstance(item, ast.FunctionDef))]
            elif isinstance(node, ast.Module):
                named = [item for item in node.body if isinstance(item, ast.FunctionDef)]
            else:
                continue
            missing += [
                f"{file.name}:{item.lineno} {item.name}"
                for item in named
                if not item.name.startswith("_") and not ast.get_docstring(item)
            ]
    assert missing == []
