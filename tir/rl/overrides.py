"""Hydra overrides of verl: the options in which a run differs from verl's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tir.common.model_files import largest_tensor
from tir.rl.run import RlRun, RunFiles

# Options of vLLM that are also keys of verl: name in vLLM -> name in verl. Other options in `engine` go to vLLM.
_ROLLOUT_NAMES = {
    "dtype": "dtype",
    "enforce_eager": "enforce_eager",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_num_seqs": "max_num_seqs",
    "tensor_parallel_size": "tensor_model_parallel_size",
    "enable_prefix_caching": "enable_prefix_caching",
    "load_format": "load_format",
}
_DTYPE = {"bf16": "bfloat16", "fp32": "float32"}
_MIB = 1 << 20


def overrides(run: RlRun, files: RunFiles, *, validate_first: bool = True) -> list[str]:
    """Hydra overrides for verl, as `key=value` (`+key=value` for keys that its schema lacks).

    Args:
        run: settings of the run.
        files: paths of the run.
        validate_first: validate before training; False if a resumed run has already validated its first step.
    """
    values = _data(run, files) | _policy(run, files) | _rollout(run, files) | _trainer(run, files, validate_first)
    values |= _cpu(run, files) if run.device == "cpu" else _cuda(run)
    return [f"{key}={hydra_value(value)}" for key, value in (values | _arm(run)).items()]


def _data(run: RlRun, files: RunFiles) -> dict[str, Any]:
    return {
        "data.train_files": files.train,
        "data.val_files": files.validation,
        "data.prompt_key": "prompt",
        "data.train_batch_size": run.rl.batch_prompts,
        "data.seed": run.seed,
        "data.shuffle": True,
        "data.max_prompt_length": run.rl.max_prompt_tokens,
        "data.max_response_length": run.rl.max_response_tokens,
        "data.filter_overlong_prompts": False,  # `prepare_rows` has dropped them
        # In the main process: there are only a few thousand short rows.
        "data.dataloader_num_workers": 0,
    }


def _policy(run: RlRun, files: RunFiles) -> dict[str, Any]:
    actor, model = "actor_rollout_ref.actor", "actor_rollout_ref.model"
    values = {
        f"{model}.path": files.model,
        f"{model}.external_lib": "tir.rl.plugin",
        # Each sequence of a packed micro-batch attends to itself only (see `tir.common.attention`, which the plug-in
        # registers). verl's default, the package flash-attn, needs a compiler to install.
        f"+{model}.override_config.attn_implementation": "packed",
        f"{model}.use_remove_padding": True,
        # Log-probabilities and entropies of 512 tokens at a time, computed again in the backward pass. Otherwise verl
        # keeps the logits of all tokens, and without flash-attn also their log-softmax and softmax.
        f"{model}.use_fused_kernels": True,
        f"{model}.fused_kernel_options.impl_backend": "torch",
        # FSDP2 runs on CPUs too, so both scales train with the same engine.
        f"{actor}.strategy": "fsdp2",
        f"{actor}.fsdp_config.strategy": "fsdp2",
        f"{actor}.ppo_mini_batch_size": run.rl.mini_batch_prompts,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": run.micro_batch_tokens,
        f"{actor}.optim.lr": run.rl.learning_rate,
        f"{actor}.clip_ratio": run.rl.clip_ratio,
        f"{actor}.clip_ratio_low": run.rl.clip_ratio,
        f"{actor}.clip_ratio_high": run.rl.clip_ratio,
        f"{actor}.entropy_coeff": run.rl.entropy_coef,
        f"{actor}.data_loader_seed": run.seed,
        f"{actor}.use_kl_loss": run.rl.track_kl or run.rl.kl_coef > 0,
        f"{actor}.kl_loss_coef": run.rl.kl_coef,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.fsdp_config.seed": run.seed,
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{actor}.checkpoint.load_contents": ["model", "optimizer", "extra"],
        "actor_rollout_ref.ref.strategy": "fsdp2",
        "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": True,
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 2 * run.micro_batch_tokens,
        "algorithm.adv_estimator": "grpo",
        "algorithm.rollout_correction.bypass_mode": run.rl.old_log_probs == "rollout",
    }
    for role in ("actor", "ref"):
        precision = f"+actor_rollout_ref.{role}.fsdp_config.mixed_precision"
        values |= {
            f"{precision}.param_dtype": run.rl.precision,
            f"{precision}.reduce_dtype": "fp32",
            f"{precision}.buffer_dtype": "fp32",
        }
    return values


def rollout_dtype(run: RlRun) -> str:
    """Data type in which the rollout engine computes and policies are stored."""
    return str(run.rl.engine.get("dtype", _DTYPE[run.rl.precision]))


def _rollout(run: RlRun, files: RunFiles) -> dict[str, Any]:
    rollout = "actor_rollout_ref.rollout"
    values = {
        f"{rollout}.name": "vllm",
        f"{rollout}.n": run.rl.group_size,
        f"{rollout}.temperature": run.rl.temperature,
        f"{rollout}.seed": run.seed,
        f"{rollout}.max_model_len": run.max_tokens,
        f"{rollout}.dtype": rollout_dtype(run),
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.log_prob_max_token_len_per_gpu": 2 * run.micro_batch_tokens,
        f"{rollout}.agent.default_agent_loop": "tir",
        f"{rollout}.agent.agent_loop_config_path": files.loop,
        # No reward workers: the agent loop computes the reward.
        "reward.num_workers": 0,
        # Ends the run if a trajectory failed, sorts the batch, and polls often.
        "trainer.v1.sampler.custom_sampler.path": "pkg://tir.rl.sampler",
        "trainer.v1.sampler.custom_sampler.name": "OrderedReplayBuffer",
        "+trainer.v1.sampler.sampler_kwargs.zero_variance_groups": run.rl.zero_variance_groups,
        # With `enable`, verl draws prompts one by one, so that any number can be drawn.
        "algorithm.filter_groups.enable": run.rl.zero_variance_groups != "keep",
        # verl's class, but with the socket for weights in the scratch directory.
        f"+{rollout}.engine_kwargs.vllm.worker_extension_cls": "tir.rl.weights.WorkerExtension",
    }
    for name, value in run.rl.engine.items():
        key = f"{rollout}.{_ROLLOUT_NAMES[name]}" if name in _ROLLOUT_NAMES else f"+{rollout}.engine_kwargs.vllm.{name}"
        values[key] = value
    return values


def _trainer(run: RlRun, files: RunFiles, validate_first: bool) -> dict[str, Any]:
    return {
        "trainer.device": run.device,
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": run.processes,
        "trainer.total_training_steps": run.rl.steps,
        # Enough epochs that verl stops by the number of steps: an epoch has at least one step.
        "trainer.total_epochs": run.rl.steps + 1,
        "trainer.save_freq": run.rl.save_every,
        "trainer.test_freq": run.rl.validate_every,
        "trainer.val_before_train": validate_first,
        "trainer.resume_mode": "auto",
        # Two, because verl deletes the older checkpoint before it marks the newer one as complete.
        "trainer.max_actor_ckpt_to_keep": 2,
        "trainer.default_local_dir": files.checkpoints,
        "trainer.checkpoint_callback_class": "tir.rl.callback.PolicyExport",
        "trainer.logger": ["file"],
        "trainer.project_name": "tir",
        "trainer.experiment_name": files.directory.name,
        "hydra.run.dir": files.directory,
        "hydra.output_subdir": None,
        "hydra/job_logging": "disabled",
        # Start a new Ray instance: without `local`, ray.init joins a cluster that runs on the machine.
        "+ray_kwargs.ray_init.address": "local",
        "+ray_kwargs.ray_init._temp_dir": files.ray,
        "+ray_kwargs.ray_init.include_dashboard": False,
    }


def _cuda(run: RlRun) -> dict[str, Any]:
    return {
        # Ray's slots, not cores: three per GPU worker and one per actor, independent of the job's cores.
        "ray_kwargs.ray_init.num_cpus": 3 * run.processes + 32,
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        "actor_rollout_ref.ref.fsdp_config.param_offload": True,
        # One agent loop per GPU; verl's default is 8 on any number of GPUs.
        "actor_rollout_ref.rollout.agent.num_workers": run.processes,
        # The third also sets VLLM_BATCH_INVARIANT (see `verl.trainer.main_ppo`).
        "actor_rollout_ref.actor.fsdp_config.full_determinism": run.rl.full_determinism,
        "actor_rollout_ref.ref.fsdp_config.full_determinism": run.rl.full_determinism,
        "actor_rollout_ref.rollout.full_determinism": run.rl.full_determinism,
    }


def _cpu(run: RlRun, files: RunFiles) -> dict[str, Any]:
    rollout, vllm = "actor_rollout_ref.rollout", "+actor_rollout_ref.rollout.engine_kwargs.vllm"
    values = {
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.actor.use_torch_compile": False,
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.use_torch_compile": False,
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        # There is no device memory to free between generation and training.
        f"{vllm}.enable_sleep_mode": False,
        f"{rollout}.free_cache_engine": False,
        # vLLM would compile the model at its start.
        f"{rollout}.enforce_eager": True,
        f"{vllm}.worker_extension_cls": "tir.rl.cpu.rollout.CpuWorkerExtension",
        f"{vllm}.kv_cache_memory_bytes": 256 * _MIB,
        # Run the model in the engine's process; a separate worker process would be polled.
        f"{vllm}.distributed_executor_backend": "uni",
        # Weights go through /dev/shm, which is small in containers; the bucket must hold the largest tensor, in fp32.
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": max(
            32, -(-4 * largest_tensor(files.model) // _MIB) + 1
        ),
        f"{rollout}.agent.num_workers": 1,
        # One storage process: with verl's default of 8, Ray runs out of CPU slots on a small machine and deadlocks.
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        # Ray's slots, not cores: each actor takes one.
        "ray_kwargs.ray_init.num_cpus": 8,
        "+ray_kwargs.ray_init.num_gpus": run.processes,
        # Python executable of Ray's workers; `tir.rl.entry` sets that of the processes that start them.
        "+ray_kwargs.ray_init.runtime_env.py_executable": files.python,
    }
    named = {f"{rollout}.{_ROLLOUT_NAMES.get(name, '')}" for name in run.rl.engine}
    named |= {f"{vllm}.{name}" for name in run.rl.engine}
    return {key: value for key, value in values.items() if key not in named}


def _arm(run: RlRun) -> dict[str, Any]:
    if run.estimator == "grpo":
        return {"trainer.v1.trainer_mode": "sync"}
    coefficients = {f"+algorithm.aspo.{name}": value for name, value in run.coefficients.items()}
    return {"trainer.v1.trainer_mode": "aspo"} | coefficients


def hydra_value(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    text = str(value)
    if text and all(character.isalnum() or character in "_-./" for character in text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
