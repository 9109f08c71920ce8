"""LSTM, GRU and plain recurrent layers: hidden units are coupled through the recurrence."""

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Labels, Ruling, Site

_GATES = {"aten::lstm": 4, "aten::gru": 3, "aten::rnn_tanh": 1, "aten::rnn_relu": 1}


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(site: Site) -> Ruling:
    """h[t] = f(W_ih x[t] + W_hh h[t-1]): unit u owns row u of every gate, and column u of W_hh.

    The layers share one initial state, so that their hidden units are coupled to each other. With `proj_size` the
    output is W_hr h: then its width is what the next step and layer read, and the units are columns of W_hr.
    """
    if "batch_sizes" in site.arguments:
        return site.keep_whole("it is a packed sequence")
    parameters, biased = list(site["params"]), bool(site["has_biases"])
    layers, bidirectional = int(site["num_layers"]), bool(site["bidirectional"])
    gates = _GATES[site.operator]
    directions = 2 if bidirectional else 1
    states = site["hx"] if isinstance(site["hx"], (list, tuple)) else [site["hx"]]
    per_layer = len(parameters) // (layers * directions)
    projected = per_layer == (5 if biased else 3)
    x: Labels = site.labels(site["input"])
    inputs: Label = x[-1]
    output: Label = site.labels(states[0])[-1]
    unit: Label = site.labels(states[-1])[-1]
    size = site.shape(states[-1])[-1]
    for layer in range(layers):
        for direction in range(directions):
            at = (layer * directions + direction) * per_layer
            w_ih, w_hh, *others = parameters[at : at + per_layer]
            if projected:
                rows, columns = site.labels(others.pop())
                output, unit = site.equate(output, rows), site.equate(unit, columns)
            if site.shape(w_ih)[1] > 1:
                site.equate(site.labels(w_ih)[1], inputs)
            output = site.equate(output, site.labels(w_hh)[1])
            for parameter in (w_ih, w_hh, *others):
                gate, row = site.atoms.split(site.labels(parameter)[0], [gates, size])
                site.freeze(gate, "a gate cannot be removed")
                unit = site.equate(unit, row)
            if not projected:
                output = unit = site.equate(output, unit)
        inputs = site.atoms.concatenate([output] * directions, [site.shape(states[0])[-1]] * directions)
    for state in states:
        for label in site.labels(state)[:-1]:
            site.freeze(label, "it is the batch or the layer of a state")
    for label in x[:-1]:
        site.freeze(label, "it is the batch or the time of a sequence")
    lead = (None,) * (len(x) - 1)
    return Ruling(((*x[:-1], inputs), (*lead, output), *((*lead, unit) for _ in states[1:])))


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(site: Site) -> Ruling:
    """One step of the same recurrence; the states are inputs and outputs."""
    gates = _GATES[site.operator.removesuffix("_cell")]
    states = site["hx"] if isinstance(site["hx"], (list, tuple)) else [site["hx"]]
    size = site.shape(states[0])[-1]
    inputs, hidden = site.labels(site["w_ih"])[1], site.labels(site["w_hh"])[1]
    site.equate(site.labels(site["input"])[-1], inputs)
    for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
        if site[name] is not None:
            gate, unit = site.atoms.split(site.labels(site[name])[0], [gates, size])
            site.freeze(gate, "a gate cannot be removed")
            hidden = site.equate(hidden, unit)
    for state in states:
        hidden = site.equate(hidden, site.labels(state)[-1])
    batch = site.broadcast_labels(
        [(site.labels(node)[:-1], site.shape(node)[:-1]) for node in (site["input"], *states)]
    )
    return Ruling(((*batch, hidden),) * len(site.output_shapes))
