# ---
# mark: 3
# minutes: 35
# help: empty
# needs: [saved tensor, autograd.Function, activation checkpointing]
# draws:
#   PLACE: [first, last]
# ---

# %% [markdown]
# # Checkpointing for a real layer
#
# The lesson's `Checkpoint` takes one tensor and gives one. A real layer takes several (some need no
# gradient, such as token numbers), may give several, and draws dropout masks.
#
# Write `Checkpoint`. `Checkpoint.apply({{ARGUMENTS}})` returns what `function(*inputs)` returns, one
# tensor or a tuple of tensors. The function comes {{PLACE}}.
#
# **Target:** inputs and weights get the gradients of a plain call, to the last digit. Nothing but
# the inputs is kept between forward and backward. `function` runs once in forward and once in
# backward. Dropout that uses PyTorch's global generator (of the CPU) draws the same mask both
# times. After backward the generator goes on as if there had been no second run.
#
# Tools that no lesson has shown: `torch.autograd.backward(outputs, gradients)` is `y.backward(gradient)`
# for several outputs at once. `ctx.needs_input_grad` says for each argument of `forward` whether it
# needs a gradient. `torch.get_rng_state()` reads the state of the generator and
# `torch.set_rng_state(state)` sets it; after a block `with torch.random.fork_rng():` it is as before.

# %% tags=["target"]
ARGUMENTS = {"first": "function, *inputs", "last": "*inputs, function"}[PLACE]

# %%
import torch


# %% tags=["stub"]
class Checkpoint(torch.autograd.Function):
    """Checkpoint.apply({{ARGUMENTS}}): function(*inputs), keeping only the inputs.

    function: takes tensors, gives a tensor or a tuple of tensors. inputs: tensors of any dtype.
    """

    @staticmethod
    def forward(ctx, *arguments):
        raise NotImplementedError("keep the inputs and the generator's state, return the result")

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError("run the function again with recording on, then its backward")


# %% [markdown] tags=["hint"]
# Begin with the lesson's `Checkpoint` and replace `x` by the inputs. In the second run, which inputs
# may require a gradient? Compare `x.requires_grad` before and after `detach`.

# %% [markdown] tags=["hint"]
# `torch.autograd.backward(outputs, gradients)` fills `.grad` of the weights and of the detached
# inputs. Return one entry for each argument of `forward`, in their order: `None` for `function` and
# the `.grad` of each input (a tuple, not a list in a tuple).

# %% [markdown] tags=["hint"]
# Store `torch.get_rng_state()` on `ctx` before the first run. In backward,
# `with torch.enable_grad(), torch.random.fork_rng():` turns recording on, and at its end gives the
# generator its present state back. Inside it, set the old state.

# %% [markdown] tags=["oral"]
# **Q.** What goes wrong if you call backward on the saved input itself, and not on a detached copy?
#
# **A.** The copy has no history. Through the saved input the second backward would go on into the
# layers before it, which autograd then does once more: their gradients count twice.
#
# **Q.** Whose gradients does your Function return, and how do the weights inside get theirs?
#
# **A.** It returns those of its arguments. The weights are no arguments; backward of the second run
# adds to their `.grad` by itself.


# %% tags=["solution"]
class Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        inputs = list(arguments)
        function = inputs.pop({"first": 0, "last": -1}["{{PLACE}}"])
        ctx.function, ctx.random = function, torch.get_rng_state()
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx, *gradients):
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
        with torch.enable_grad(), torch.random.fork_rng():
            torch.set_rng_state(ctx.random)
            outputs = ctx.function(*inputs)
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        torch.autograd.backward(outputs, gradients)
        found = [x.grad for x in inputs]
        return {"first": (None, *found), "last": (*found, None)}["{{PLACE}}"]


# %% tags=["check"]
import gc
import weakref

from minimtnlg.course.check import Feedback, expect


def _plain(function, *inputs):
    return function(*inputs)


def _checkpointed(student):
    """A call that takes the function first, wherever the student's class takes it."""

    def call(function, *inputs):
        arguments = (function, *inputs) if PLACE == "first" else (*inputs, function)
        return student.apply(*arguments)

    return call


def _piece():
    """(module, x): a small nonlinear piece in float64 and an input for it."""
    draw = torch.Generator().manual_seed(5)
    module = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.GELU(), torch.nn.Linear(12, 6))
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64) / 3)
    return module, torch.randn(4, 6, generator=draw, dtype=torch.float64, requires_grad=True)


def _backward(y):
    """y.backward(); Feedback if autograd does not accept what the student's backward returns."""
    try:
        y.backward()
    except RuntimeError as error:
        known = "expected Variable or None", "number of gradients", "different than None"
        if not any(words in str(error) for words in known):
            raise
        wanted = "a tuple: a gradient or None for each argument of forward, function among them"
        look_at = "a list among them is one entry; `*` unpacks it" if known[0] in str(error) else ""
        raise Feedback("what backward returns", wanted, str(error), look_at) from None


def _run(call, function, *inputs, seed=3):
    """Outputs of `call(function, *inputs)` as a tuple, after a backward that weighs them."""
    torch.manual_seed(seed)
    outputs = call(function, *inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    _backward(sum((i + 1) * y.square().sum() for i, y in enumerate(outputs)))
    return [y.detach() for y in outputs]


def input_gradient(student):
    """Output and gradient of the input are those of a plain call"""
    module, x = _piece()
    y = _run(_plain, module, x)
    wanted, x.grad = x.grad, None
    got = _run(_checkpointed(student), module, x)
    expect(got, y, "the output")
    expect(x.grad, wanted, "the gradient of the input", "is the second run cut off by detach?")


def weight_gradients(student):
    """The weights inside get their gradients too"""
    module, x = _piece()
    _run(_plain, module, x)
    wanted = {name: p.grad for name, p in module.named_parameters()}
    module.zero_grad()
    _run(_checkpointed(student), module, x)
    got = {name: p.grad for name, p in module.named_parameters()}
    if all(g is None for g in got.values()):
        raise Feedback(
            "the gradients of the weights inside", "tensors", "None for all",
            "torch.autograd.grad returns gradients; backward also fills .grad of the weights",
        )  # fmt: skip
    expect(got, wanted, "the gradients of the weights inside")


def runs_twice(student):
    """The function runs once in forward and once in backward"""
    module, x = _piece()
    runs = []

    def counted(x):
        runs.append(torch.is_grad_enabled())
        return module(x)

    y = _checkpointed(student)(counted, x)
    expect(len(runs), 1, "runs of the function in forward")
    _backward(y.sum())
    expect(len(runs), 2, "runs of the function after backward", "keep the inputs, not the graph")


def keeps_only_the_input(student):
    """Nothing but the inputs is kept between forward and backward"""
    module, x = _piece()
    inside, kept = [], set()

    def watched(x):
        middle = module[0](x)
        inside.append(weakref.ref(middle))
        return module[2](module[1](middle))

    def pack(tensor):
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = _checkpointed(student)(watched, x)
    gc.collect()
    if inside[0]() is not None:
        raise Feedback(
            "a tensor from inside the function, between forward and backward",
            "freed", "still alive", "forward must not record: what holds on to its results?",
        )  # fmt: skip
    if kept - {x.untyped_storage().data_ptr()}:
        raise Feedback(
            "storages that autograd was given to keep", "that of the input",
            f"{len(kept)} storages", "ctx.save_for_backward takes the inputs, and no result",
        )  # fmt: skip
    expect(y.requires_grad, True, "whether the output needs a gradient")


# %% tags=["hidden"]
def inputs_without_gradient(student):
    """Inputs that need no gradient are left alone: whole numbers, and a fixed tensor"""
    module, x = _piece()
    rows = torch.tensor([3, 0, 0, 2])
    fixed = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)

    def function(rows, x, fixed):
        return module(x[rows]) * fixed

    _run(_plain, function, rows, x, fixed)
    wanted, x.grad = x.grad, None
    _run(_checkpointed(student), function, rows, x, fixed)
    expect(x.grad, wanted, "the gradient of the one input that needs it")
    if rows.grad is not None or fixed.grad is not None or fixed.requires_grad:
        raise Feedback("an input that needs no gradient", "no .grad", "a gradient", "requires_grad")


def several_outputs(student):
    """A function that returns a tuple"""
    module, x = _piece()

    def function(x):
        y = module(x)
        return y + x, y * y

    wanted = _run(_plain, function, x)
    gradient, x.grad = x.grad, None
    expect(_run(_checkpointed(student), function, x), wanted, "the outputs")
    expect(x.grad, gradient, "the gradient of the input, through both outputs")


def several_inputs(student):
    """Each input gets its own gradient, also when they come from other layers"""
    module, x = _piece()
    z = torch.linspace(0, 2, 24, dtype=torch.float64).view(4, 6).requires_grad_()

    def through(call):
        x.grad = z.grad = None
        module.zero_grad()
        middle = module(x)  # not a leaf: there is something before the checkpoint
        _backward(call(lambda u, v: module(u * v) - v, middle, z.exp()).square().sum())
        return {"x": x.grad, "z": z.grad, "weight": module[0].weight.grad.clone()}

    wanted = through(_plain)
    expect(through(_checkpointed(student)), wanted, "the gradients before the checkpoint")


def same_dropout_twice(student):
    """Dropout draws the same mask in the second run"""
    module, x = _piece()

    def function(x):
        return torch.nn.functional.dropout(module(x), 0.5)

    y = _run(_plain, function, x)
    wanted, x.grad = x.grad, None
    torch.manual_seed(3)
    got = _checkpointed(student)(function, x)
    torch.rand(7)  # something else draws before backward, as the next layer would
    got.square().sum().backward()
    expect(got, y[0], "the output")
    look_at = "the state of the generator must be that before the first run"
    expect(x.grad, wanted, "the gradient, with dropout", look_at)


def the_generator_goes_on(student):
    """After backward the generator is where it was"""
    module, x = _piece()

    def draws_after(call):
        torch.manual_seed(3)
        y = call(lambda x: torch.nn.functional.dropout(module(x), 0.5), x)
        torch.rand(7)  # the layers behind draw, then backward begins
        y.sum().backward()
        return torch.rand(3)

    look_at = "what the second run draws must not count"
    right = draws_after(_plain)
    expect(draws_after(_checkpointed(student)), right, "the next random numbers", look_at)


def notices_a_changed_input(student):
    """An input overwritten before backward is noticed, as everywhere in autograd"""
    module, x = _piece()
    middle = x * 2
    y = _checkpointed(student)(module, middle)
    with torch.no_grad():
        middle.zero_()
    try:
        y.sum().backward()
    except RuntimeError:
        return
    raise Feedback(
        "backward after the input was overwritten", "RuntimeError", "a wrong gradient, silently",
        "tensors go through ctx.save_for_backward, not on ctx itself",
    )  # fmt: skip


# %% tags=["wrong"]
def _parted(arguments):
    """(function, inputs)"""
    inputs = list(arguments)
    return inputs.pop(0 if PLACE == "first" else -1), inputs


def _results(gradients):
    return (None, *gradients) if PLACE == "first" else (*gradients, None)


def _copies(ctx):
    return [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]


def _second_run(ctx, inputs):
    with torch.enable_grad(), torch.random.fork_rng():
        torch.set_rng_state(ctx.random)
        outputs = ctx.function(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


class forgets_to_detach(Checkpoint):
    """Caught by: input_gradient. The copy seems a detail; the gradient is counted twice."""

    @staticmethod
    def backward(ctx, *gradients):
        inputs = ctx.saved_tensors
        torch.autograd.backward(_second_run(ctx, inputs), gradients)
        return _results(x.grad for x in inputs)


class inputs_only(Checkpoint):
    """Caught by: weight_gradients. Returning the inputs' gradients looks like the whole job."""

    @staticmethod
    def backward(ctx, *gradients):
        inputs = _copies(ctx)
        wanted = [x for x in inputs if x.requires_grad]
        found = iter(torch.autograd.grad(_second_run(ctx, inputs), wanted, gradients))
        return _results(next(found) if x.requires_grad else None for x in inputs)


class second_run_not_recorded(Checkpoint):
    """Caught by: input_gradient. Backward of a Function records nothing unless told to."""

    @staticmethod
    def backward(ctx, *gradients):
        inputs = _copies(ctx)
        outputs = ctx.function(*inputs)
        torch.autograd.backward(outputs, gradients)
        return _results(x.grad for x in inputs)


class fresh_dropout(Checkpoint):
    """Caught by: same_dropout_twice. The same code is expected to draw the same mask."""

    @staticmethod
    def backward(ctx, *gradients):
        ctx.random = torch.get_rng_state()  # that is, none was kept
        return Checkpoint.backward(ctx, *gradients)


class winds_the_generator_back(Checkpoint):
    """Caught by: the_generator_goes_on. Setting the state is thought to concern this run alone."""

    @staticmethod
    def backward(ctx, *gradients):
        inputs = _copies(ctx)
        torch.set_rng_state(ctx.random)
        with torch.enable_grad():
            outputs = ctx.function(*inputs)
        torch.autograd.backward(outputs, gradients)
        return _results(x.grad for x in inputs)


class keeps_the_graph(torch.autograd.Function):
    """Caught by: runs_twice. The first run is recorded and kept: right gradients, nothing saved."""

    @staticmethod
    def forward(ctx, *arguments):
        function, inputs = _parted(arguments)
        ctx.inputs = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
        with torch.enable_grad():
            outputs = function(*ctx.inputs)
        ctx.outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        results = tuple(y.detach() for y in ctx.outputs)
        return results if isinstance(outputs, tuple) else results[0]

    @staticmethod
    def backward(ctx, *gradients):
        torch.autograd.backward(ctx.outputs, gradients)
        return _results(x.grad for x in ctx.inputs)


class keeps_the_output_as_well(Checkpoint):
    """Caught by: keeps_only_the_input. What is computed is put aside, to be on the safe side."""

    @staticmethod
    def forward(ctx, *arguments):
        outputs, (_, inputs) = Checkpoint.forward(ctx, *arguments), _parted(arguments)
        ctx.save_for_backward(*inputs, *(outputs if isinstance(outputs, tuple) else (outputs,)))
        ctx.count = len(inputs)
        return outputs

    @staticmethod
    def backward(ctx, *gradients):
        inputs = _copies(ctx)[: ctx.count]
        torch.autograd.backward(_second_run(ctx, inputs), gradients)
        return _results(x.grad for x in inputs)


class every_input_needs_a_gradient(Checkpoint):
    """Caught by: inputs_without_gradient. The lesson's requires_grad_() is put on all inputs."""

    @staticmethod
    def backward(ctx, *gradients):
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        torch.autograd.backward(_second_run(ctx, inputs), gradients)
        return _results(x.grad for x in inputs)


class function_in_the_wrong_place(Checkpoint):
    """Caught by: input_gradient. The None for the function stands in an input's place."""

    @staticmethod
    def backward(ctx, *gradients):
        found = list(Checkpoint.backward(ctx, *gradients))
        return tuple(found[::-1])


class gradients_in_a_list(Checkpoint):
    """Caught by: input_gradient. The gradients of the inputs are thought to be one entry."""

    @staticmethod
    def backward(ctx, *gradients):
        found = list(Checkpoint.backward(ctx, *gradients))
        return (None, found[1:]) if PLACE == "first" else (found[:-1], None)


class forgets_the_function(Checkpoint):
    """Caught by: input_gradient. Only what has a gradient is thought to be returned."""

    @staticmethod
    def backward(ctx, *gradients):
        found = Checkpoint.backward(ctx, *gradients)
        return found[1:] if PLACE == "first" else found[:-1]


class one_output(Checkpoint):
    """Caught by: several_outputs. The lesson's backward: the first output stands for all."""

    @staticmethod
    def backward(ctx, *gradients):
        inputs = _copies(ctx)
        _second_run(ctx, inputs)[0].backward(gradients[0])
        return _results(x.grad for x in inputs)


class inputs_on_ctx(Checkpoint):
    """Caught by: notices_a_changed_input. An attribute of ctx is taken for saving."""

    @staticmethod
    def forward(ctx, *arguments):
        function, inputs = _parted(arguments)
        ctx.function, ctx.random, ctx.inputs = function, torch.get_rng_state(), inputs
        return function(*inputs)

    @staticmethod
    def backward(ctx, *gradients):
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in ctx.inputs]
        torch.autograd.backward(_second_run(ctx, inputs), gradients)
        return _results(x.grad for x in inputs)
