"""Data synthesis: a corpus for the cold start, made of questions by a teacher that runs the tools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tir.common.schema import Address, Model, Share, Task, operational
from tir.config.faults import Fault
from tir.config.sources import Source
from tir.config.tools import ToolName, require_one_per_tag

# Fine-tuning runs on equal numbers of rows: of `data.sft`, and of the synthesised corpus. The models are sft-{run}.
RUNS = ("original", "synthesised")


class Teacher(Model):
    """The model that answers the questions."""

    model: str = Field(
        "base", description="a name under `models`, or `sft`; with `endpoint`, the model's name on that server"
    )
    endpoint: Address | None = operational(
        None,
        description="address of an OpenAI-compatible server, with /v1; null: the job loads the model. Its key is read "
        "from TIR_HELPER_KEY",
    )
    revision: str | None = Field(
        None, description="with `endpoint`: the model's revision, which a server does not report; for the data card"
    )
    prompts: Literal["own", "system"] = Field(
        "own",
        description="own: the prompts of tir/synthesis/prompts.py, which explain the protocol; system: the system "
        "prompt of the rows, for a teacher that was trained on the protocol",
    )
    temperature: float = Field(1.0, ge=0, le=10, description="sampling temperature; 0: greedy, so one sample suffices")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling: probability mass of the tokens to sample from")
    max_response_tokens: int = Field(
        4096, ge=16, description="maximum response length in tokens, tool results included"
    )
    concurrency: int = Field(64, ge=1, le=65536, description="questions that are asked at the same time")
    timeout_s: float = operational(120.0, gt=0, le=3600, description="endpoint: seconds to wait for a reply")
    retry_s: float = operational(
        120.0, gt=0, le=86_400, description="endpoint: seconds after which a request that fails is not repeated"
    )
    lost_in_a_row: int = operational(
        20, ge=1, description="number of successive questions lost to errors of the teacher after which the run stops"
    )


class SynthesisBudget(Model):
    """What sampling may use. The question that exceeds it is the last one; later ones are counted as not asked."""

    tokens: int | None = Field(
        None,
        ge=1,
        description="tokens that the teacher writes; of an endpoint one for every four characters; null: no limit",
    )
    calls: int | None = Field(None, ge=1, description="requests to the teacher, one per turn; null: no limit")

    @field_validator("tokens", "calls", mode="before")
    @classmethod
    def _not_nothing(cls, value: Any) -> Any:
        if value == 0 and value is not False:
            raise Fault((), "0: no request could be sent to the teacher; null means no limit", paste=((), None))
        return value


class SynthesisSampling(Model):
    """Step 1: trajectories of the teacher."""

    direct: int = Field(3, ge=1, le=1000, description="samples without tools per question; upstream 3")
    tools: int = Field(3, ge=1, le=1000, description="samples with tools per question; upstream 3")
    hints: int = Field(
        1,
        ge=0,
        le=1000,
        description="samples per question that continue a sample without tools, from where it hesitates, with tools",
    )
    routes: dict[Task, list[ToolName]] = Field(
        default={"math": ["python"], "qa": ["search"]},
        description="tools by task; upstream: one tool for each, so no trajectory uses two",
    )
    budget: SynthesisBudget = Field(SynthesisBudget(), description="limits of tokens and requests")
    seed: int = Field(0, ge=0, description="seed from which the seed of each sample is derived")

    @model_validator(mode="after")
    def _one_per_tag(self) -> SynthesisSampling:
        require_one_per_tag(self.routes)
        return self


class Normalisation(Model):
    """Step 2: which trajectories stay."""

    max_calls: int = Field(5, ge=1, le=100, description="maximum tool calls of a trajectory; upstream 5")
    max_identical_calls: int = Field(
        1, ge=1, le=100, description="how often the same call may occur in a trajectory; upstream 1"
    )
    qa_f1: Share = Field(0.5, gt=0, description="token F1 from which on an answer to a QA question is right")
    near_duplicates: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of the three-word sequences from which on two questions with the same numbers "
        "count as one; null: only equal questions",
    )
    decontaminate: bool = Field(True, description="drop questions of the benchmarks and of the RL validation file")


class Classification(Model):
    """Step 3: which questions become fine-tuning rows, and which RL prompts."""

    right_share: Share = Field(
        0.5,
        gt=0,
        description="smallest share of right samples with which reasoning without tools, or with them, counts as right",
    )
    rows_per_question: int = Field(1, ge=1, le=1000, description="maximum fine-tuning rows of a question")
    mixed: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of fine-tuning rows that use search and then Python, made of search trajectories whose "
        "answer is a number; upstream has none",
    )
    seed: int = Field(0, ge=0, description="seed of the order of the rows, and of the mixed ones")


class Synthesis(Model):
    """The corpus of `data.sft: {kind: synthesis}`, made in three steps in synthesis/."""

    questions: Source | None = Field(
        None,
        description="questions with answers, in the formats of data.rl_train; world: generated ones of the fine-tuning "
        "split; null: the questions of data.rl_train",
    )
    max_questions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="number of questions, from the head of the file; null: all. Those of kind world: default 1000"
    )
    licence: str = Field("not stated", description="licence of the questions, for the data card")
    teacher: Teacher = Field(Teacher(), description="the model that answers the questions")
    sampling: SynthesisSampling = Field(SynthesisSampling(), description="step 1: trajectories of the teacher")
    normalisation: Normalisation = Field(Normalisation(), description="step 2: which trajectories stay")
    classification: Classification = Field(
        Classification(), description="step 3: which questions become fine-tuning rows, and which RL prompts"
    )
