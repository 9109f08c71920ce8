"""Operators that are known and kept whole: whoever meets one reads the reason.

A sentence continues "the operator ..."; a row here is a decision, as a row in RULES is one.
"""

_BECAUSE = {
    "finds its indices by the values of the input, so that their number is known only when it runs": """
        nonzero nonzero_numpy nonzero_static argwhere masked_select masked_scatter unique_consecutive _unique _unique2
        unique_dim unique_dim_consecutive bincount multinomial
    """,
    "counts or compares the values of every element with each other": """
        histc histogram histogramdd quantile nanquantile corrcoef cov equal allclose segment_reduce
    """,
    "reads or writes single elements at places in memory that the shape of the tensor does not tell": """
        _reshape_alias as_strided as_strided_copy as_strided_scatter take put set resize resize_as resize_as_sparse
        empty_strided new_empty_strided empty_permuted _index_put_impl _unsafe_masked_index
        _unsafe_masked_index_put_accumulate _reshape_from_tensor to_padded_tensor
    """,
    "factorises or inverts a matrix, so that every entry of the result depends on all of them": """
        cholesky cholesky_inverse cholesky_solve det inverse pinverse logdet slogdet svd qr orgqr ormqr geqrf lu_solve
        lu_unpack triangular_solve matrix_exp matrix_power linalg_cholesky linalg_cholesky_ex linalg_cond linalg_det
        linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex
        linalg_ldl_factor linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor
        linalg_lu_factor_ex linalg_lu_solve linalg_matrix_exp linalg_matrix_power linalg_matrix_rank linalg_pinv
        linalg_qr linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals
        linalg_tensorinv linalg_tensorsolve _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex
        _linalg_svd _lu_with_info nuclear_norm linalg_vander vander
    """,
    "spreads or collects the entries of a diagonal": """
        diag diag_embed diagflat diagonal_scatter fill_diagonal block_diag trace rot90
    """,
    "lists combinations of the elements of its inputs": """
        meshgrid cartesian_prod combinations kron pdist _pdist_forward
    """,
    "gives the sizes of a tensor as values": "_shape_as_tensor _dim_arange",
    "compares all positions under a mask": "_masked_softmax",
    "cuts a signal into windows and transforms them": "stft istft",
    "integrates or differentiates along a dimension with given steps": """
        trapezoid trapz cumulative_trapezoid gradient
    """,
    "is a whole layer fused into one call, whose number of heads is a constant": """
        _native_multi_head_attention _transformer_encoder_layer_fwd _transform_bias_rescale_qkv
        _triton_multi_head_attention _triton_scaled_dot_attention
    """,
    "computes in integers or eight-bit floats, whose scales belong to whole tensors": """
        _int_mm _scaled_mm _scaled_mm_v2 _scaled_grouped_mm _scaled_grouped_mm_v2 _weight_int8pack_mm
        _weight_int4pack_mm _weight_int4pack_mm_for_cpu _mixed_dtypes_linear quantize_per_tensor quantize_per_channel
        dequantize fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
    """,
    "packs sequences of different lengths": "_pack_padded_sequence _pad_packed_sequence pad_sequence _pack_sequence",
    "is a loss over whole distributions": """
        ctc_loss _ctc_loss nll_loss nll_loss_nd nll_loss2d nll_loss_forward nll_loss2d_forward cross_entropy_loss
        multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward triplet_margin_loss
        cosine_embedding_loss margin_ranking_loss hinge_embedding_loss poisson_nll_loss
    """,
    "limits the norm of the rows that it looks up": "embedding_renorm renorm",
    "is a metadata change that later readers of the same tensor see": """
        t_ transpose_ swapaxes_ swapdims_ squeeze_ unsqueeze_ resize_ resize_as_ set_ as_strided_ rename_
    """,
    "adds up what was broadcast": "sum_to_size _grad_sum_to_size",
    "draws a table of quasi-random numbers": "_sobol_engine_draw",
    "takes a choice by a value: the bodies of both sides would have to be cut alike": "higher_order::cond",
    "repeats a body: what enters it must keep the shape of what leaves it": """
        higher_order::while_loop higher_order::while_loop_stack_output higher_order::scan higher_order::map_impl
        higher_order::map higher_order::associative_scan
    """,
    "computes its body in another precision, which the analysis does not enter": "higher_order::wrap_with_autocast",
    "is a node of an ONNX file that is computed outside torch": "penjing_onnx::node",
    "calls a body that is compiled on its own": """
        higher_order::invoke_subgraph higher_order::invoke_quant higher_order::triton_kernel_wrapper_functional
        higher_order::triton_kernel_wrapper_mutation higher_order::run_const_graph
    """,
}

FROZEN: dict[str, str] = {
    operator if "::" in operator else f"aten::{operator}": sentence
    for sentence, operators in _BECAUSE.items()
    for operator in operators.split()
}
"""The one table of operators that are kept whole: operator name -> why, as the rest of a sentence about it."""


def frozen_because(operator: str) -> str | None:
    """Why an operator is kept whole; `aten::put_` has the reason of `aten::put`. None for one that is not listed.

    >>> frozen_because("aten::linalg_svd")
    'factorises or inverts a matrix, so that every entry of the result depends on all of them'
    """
    return FROZEN.get(operator) or FROZEN.get(operator.removesuffix("_"))
