"""The Hydra overrides of a run: one flat list, the whole difference between verl's defaults and ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tir.rl.settings import RlSettings

# Options of vLLM that verl has a name of its own for; the rest of `engine` goes to vLLM as it is.
_ROLLOUT_NAMES = {
    "dtype": "dtype", "enforce_eager": "enforce_eager", "gpu_memory_utilization": "gpu_memory_utilization",
    "max_num_batched_tokens": "max_num_batched_tokens", "max_num_seqs": "max_num_seqs",
    "tensor_parallel_size": "tensor_model_parallel_size", "enable_prefix_caching": "enable_prefix_caching",
    "load_format": "load_format",
}
_DTYPE = {"bf16": "bfloat16", "fp32": "float32"}
_MIB = 1 << 20


@dataclass(frozen=True)
class RunFiles:
    """Where a run reads and writes.

    Attributes:
        model: Hugging Face directory of the starting policy.
        train, validation: parquet written by `prepare_rows`.
        loop: YAML that registers the agent loop (see `tir.rl.agent_loop`).
        directory: the run's directory.
        scratch: a short directory on a local disk for Ray's sockets; removed after the run.
    """

    model: Path
    train: Path
    validation: Path
    loop: Path
    directory: Path
    scratch: Path

    @property
    def python(self) -> Path:
        """Stands in for the Python executable of forked processes (see `tir.rl.forkserver`)."""
        return self.scratch / "python"

    @property
    def checkpoints(self) -> Path:
        """verl's checkpoints, `global_step_N` each."""
        return self.directory / "checkpoints"


def overrides(settings: RlSettings, files: RunFiles, *, validate_first: bool = True) -> list[str]:
    """Everything verl is told, as `key=value` (`+key=value` for keys its schema lacks).

    Args:
        settings: the run.
        files: its paths.
        validate_first: validate before training; a resumed run has done that.
    """
    values = _data(settings, files) | _policy(settings, files) | _rollout(settings, files) | _trainer(settings, files, validate_first)
    values |= _cpu(settings, files) if settings.device == "cpu" else _cuda(settings)
    return [f"{key}={hydra_value(value)}" for key, value in (values | _arm(settings)).items()]


def _data(settings: RlSettings, files: RunFiles) -> dict[str, Any]:
    return {
        "data.train_files": files.train, "data.val_files": files.validation, "data.prompt_key": "prompt",
        "data.train_batch_size": settings.batch_prompts, "data.seed": settings.seed, "data.shuffle": True,
        "data.max_prompt_length": settings.max_prompt_tokens, "data.max_response_length": settings.max_response_tokens,
        "data.filter_overlong_prompts": True,
        # Loading a few thousand short rows needs no processes of its own.
        "data.dataloader_num_workers": 0,
    }


def _policy(settings: RlSettings, files: RunFiles) -> dict[str, Any]:
    actor, model = "actor_rollout_ref.actor", "actor_rollout_ref.model"
    tokens = settings.micro_batch_tokens or 2 * settings.max_tokens
    values = {
        f"{model}.path": files.model, f"{model}.external_lib": "tir.rl.plugin",
        # Torch's own attention, which has FlashAttention-2 in it; verl's default is a package that needs a compiler. Rows of a
        # micro-batch lie end to end, and transformers masks each from the others by its positions.
        f"+{model}.override_config.attn_implementation": "sdpa", f"{model}.use_remove_padding": True,
        # FSDP2 also runs on a CPU, so both scales train with the same engine.
        f"{actor}.strategy": "fsdp2", f"{actor}.fsdp_config.strategy": "fsdp2",
        f"{actor}.ppo_mini_batch_size": settings.mini_batch_prompts,
        f"{actor}.use_dynamic_bsz": True, f"{actor}.ppo_max_token_len_per_gpu": tokens,
        f"{actor}.optim.lr": settings.learning_rate, f"{actor}.clip_ratio": settings.clip_ratio,
        f"{actor}.clip_ratio_low": settings.clip_ratio, f"{actor}.clip_ratio_high": settings.clip_ratio,
        f"{actor}.entropy_coeff": settings.entropy_coef, f"{actor}.data_loader_seed": settings.seed,
        f"{actor}.use_kl_loss": settings.track_kl or settings.kl_coef > 0, f"{actor}.kl_loss_coef": settings.kl_coef,
        f"{actor}.kl_loss_type": "low_var_kl", f"{actor}.fsdp_config.seed": settings.seed,
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{actor}.checkpoint.load_contents": ["model", "optimizer", "extra"],
        "actor_rollout_ref.ref.strategy": "fsdp2", "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": True,
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 2 * tokens,
        "algorithm.adv_estimator": "grpo",
        "algorithm.rollout_correction.bypass_mode": settings.old_log_probs == "rollout",
    }
    for role in ("actor", "ref"):
        precision = f"+actor_rollout_ref.{role}.fsdp_config.mixed_precision"
        values |= {f"{precision}.param_dtype": settings.precision, f"{precision}.reduce_dtype": "fp32",
                   f"{precision}.buffer_dtype": "fp32"}
    return values


def rollout_dtype(settings: RlSettings) -> str:
    """What the rollout engine computes in, which is what policies are stored in."""
    return str(settings.engine.get("dtype", _DTYPE[settings.precision]))


def _rollout(settings: RlSettings, files: RunFiles) -> dict[str, Any]:
    rollout = "actor_rollout_ref.rollout"
    tokens = settings.micro_batch_tokens or 2 * settings.max_tokens
    values = {
        f"{rollout}.name": "vllm", f"{rollout}.n": settings.group_size, f"{rollout}.temperature": settings.temperature,
        f"{rollout}.seed": settings.seed, f"{rollout}.max_model_len": settings.max_tokens,
        f"{rollout}.dtype": rollout_dtype(settings), f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.enforce_eager": True, f"{rollout}.log_prob_max_token_len_per_gpu": 2 * tokens,
        f"{rollout}.agent.default_agent_loop": "tir", f"{rollout}.agent.agent_loop_config_path": files.loop,
        # The loop returns its reward; verl's reward workers would only be started to idle.
        "reward.num_workers": 0,
        # Ours ends the run on a failed trajectory, orders the batch, and does not sleep for seconds.
        "trainer.v1.sampler.custom_sampler.path": "pkg://tir.rl.sampler",
        "trainer.v1.sampler.custom_sampler.name": "OrderedReplayBuffer",
        # vLLM's own extension point; verl's class with the weight socket in the run's own directory.
        f"+{rollout}.engine_kwargs.vllm.worker_extension_cls": "tir.rl.weights.WorkerExtension",
    }
    for name, value in settings.engine.items():
        key = f"{rollout}.{_ROLLOUT_NAMES[name]}" if name in _ROLLOUT_NAMES else f"+{rollout}.engine_kwargs.vllm.{name}"
        values[key] = value
    return values


def _trainer(settings: RlSettings, files: RunFiles, validate_first: bool) -> dict[str, Any]:
    return {
        "trainer.device": settings.device, "trainer.nnodes": 1, "trainer.n_gpus_per_node": settings.gpus,
        "trainer.total_training_steps": settings.steps,
        # The number of epochs ends verl's loop too; an epoch has at least one step.
        "trainer.total_epochs": settings.steps + 1,
        "trainer.save_freq": settings.save_every, "trainer.test_freq": settings.validate_every,
        "trainer.val_before_train": validate_first, "trainer.resume_mode": "auto",
        # Two: verl deletes the older one before it says that the newer one is complete.
        "trainer.max_actor_ckpt_to_keep": 2, "trainer.default_local_dir": files.checkpoints,
        "trainer.checkpoint_callback_class": "tir.rl.callback.PolicyExport",
        "trainer.logger": ["file"], "trainer.project_name": "tir", "trainer.experiment_name": files.directory.name,
        "hydra.run.dir": files.directory, "hydra.output_subdir": None, "hydra/job_logging": "disabled",
        # Always a Ray of our own: without `local`, ray.init joins any cluster it finds on the machine.
        "+ray_kwargs.ray_init.address": "local", "+ray_kwargs.ray_init._temp_dir": files.scratch,
        "+ray_kwargs.ray_init.include_dashboard": False,
    }


def _cuda(settings: RlSettings) -> dict[str, Any]:
    return {
        # Ray's slots, not cores: three per GPU worker and one per resident actor, whatever share of a node the job has.
        "ray_kwargs.ray_init.num_cpus": 3 * settings.gpus + 32,
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        "actor_rollout_ref.ref.fsdp_config.param_offload": True,
    }


def _cpu(settings: RlSettings, files: RunFiles) -> dict[str, Any]:
    rollout, vllm = "actor_rollout_ref.rollout", "+actor_rollout_ref.rollout.engine_kwargs.vllm"
    values = {
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.actor.use_torch_compile": False, "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.use_torch_compile": False, "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        # There is no device memory to give back between generating and training.
        f"{vllm}.enable_sleep_mode": False, f"{rollout}.free_cache_engine": False,
        f"{vllm}.worker_extension_cls": "tir.rl.cpu_rollout.CpuWorkerExtension",
        f"{vllm}.kv_cache_memory_bytes": 256 * _MIB,
        # The model runs in the engine's own process instead of a worker process that both sides poll for.
        f"{vllm}.distributed_executor_backend": "uni",
        # Weights travel through /dev/shm, which containers keep small; the bucket must hold the largest tensor.
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": 32,
        f"{rollout}.agent.num_workers": 1,
        # One storage process: with verl's 8 a small machine deadlocks on Ray's CPU slots.
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        # Ray's slots, not cores: every resident actor takes one.
        "ray_kwargs.ray_init.num_cpus": 8, "+ray_kwargs.ray_init.num_gpus": settings.gpus,
        # The last Python that Ray starts on the way to a worker; the ones before are the driver's (see `tir.rl.entry`).
        "+ray_kwargs.ray_init.runtime_env.py_executable": files.python,
    }
    named = {f"{rollout}.{_ROLLOUT_NAMES.get(name, '')}" for name in settings.engine}
    named |= {f"{vllm}.{name}" for name in settings.engine}
    return {key: value for key, value in values.items() if key not in named}


def _arm(settings: RlSettings) -> dict[str, Any]:
    if settings.estimator == "grpo":
        return {"trainer.v1.trainer_mode": "sync"}
    coefficients = {f"+algorithm.aspo.{name}": value for name, value in settings.coefficients.items()}
    return {"trainer.v1.trainer_mode": "aspo"} | coefficients


def environment(settings: RlSettings, files: RunFiles, threads: int) -> dict[str, str]:
    """Environment variables of verl's processes, beyond the caller's own; `threads` is the number of usable cores."""
    modules = ["tir.rl.cpu_platform"] if settings.device == "cpu" else []
    # Not written out, because an arm without a shaping term does not depend on its code (see `tir.workflow.code`).
    modules += [f"{settings.estimator}.integration"] if settings.estimator == "aspo" else []
    scratch = str(files.scratch)
    values = {
        "TIR_RUN_DIRECTORY": str(files.directory), "TIR_SCRATCH": scratch, "TIR_SOURCE_MODEL": str(files.model),
        "HYDRA_FULL_ERROR": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        # Two runs on one machine must not share caches, tokens, sockets or lock files.
        "TMPDIR": scratch, "HF_DATASETS_CACHE": f"{scratch}/datasets", "VLLM_RPC_BASE_PATH": scratch,
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{scratch}/token",
        # No worker processes in advance: each imports Ray for a second and a half, and none is of use to an actor with an
        # environment of its own, which all of verl's are.
        "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if modules:
        values["VERL_USE_EXTERNAL_MODULES"] = ",".join(modules)
    return values | (_cpu_environment(files, threads) if settings.device == "cpu" else {})


def _cpu_environment(files: RunFiles, threads: int) -> dict[str, str]:
    return {
        "VERL_PLATFORM": "cpu",
        # Ray's name for "listen on the loopback address": there is one machine.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray's workers do the work of this run: not behind everything else on the machine, which is Ray's default (15).
        "RAY_worker_niceness": "0",
        # Processes are forks of the driver, which must have no threads until then; each fork then takes `threads`.
        "TIR_FORK_ADDRESS": str(files.scratch / "fork"), "TIR_FORK_PYTHON": str(files.python), "TIR_THREADS": str(threads),
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        # Idle threads give their core to the process that has work; there are more processes than cores.
        "OMP_WAIT_POLICY": "passive",
        # verl gives these to Ray's workers, which read them when they import; forks have imported already.
        "TRANSFER_QUEUE_ENABLE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true", "VLLM_DISABLE_COMPILE_CACHE": "1",
        # vLLM compiles its log-probability kernel with a C++ compiler, 20 s that a tiny model never earns back.
        "TORCH_COMPILE_DISABLE": "1",
        # vLLM's CPU build keeps the "uni" executor only with this.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


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
