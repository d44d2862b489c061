"""NORMS: spellings of LayerNorm and RMSNorm in ONNX text, each between two products. Conventions: tiny_texts.py."""

from __future__ import annotations

_17 = '<ir_version: 8, opset_import: ["": 17]>'


def _norm(body: str, head: str = _17, more: str = "") -> str:
    """A LayerNorm spelling between a MatMul that makes its input and one that reads its output."""
    return f"""{head} g (float[B,5,8] x, float[8,8] w_in, float[8] gamma, float[8] beta, float[8,4] w_out)
        => (float[B,5,4] y) {{
        u = MatMul(x, w_in)
        {more}
        {body}
        y = MatMul(n, w_out)
    }}"""


NORMS: dict[str, str] = {
    "layer norm of torch: Pow, Sqrt, Div": _norm("""
        axes_mean = ReduceMean<axes: ints = [-1]>(u)
        c = Sub(u, axes_mean)
        two = Constant<value = float {2.0}>()
        s = Pow(c, two)
        v = ReduceMean<axes: ints = [-1]>(s)
        e = Constant<value = float {0.00001}>()
        ve = Add(v, e)
        d = Sqrt(ve)
        q = Div(c, d)
        g1 = Mul(q, gamma)
        n = Add(g1, beta)"""),
    "layer norm squared by Mul, scaled by Reciprocal, commuted": _norm("""
        m = ReduceMean<axes: ints = [2], keepdims: int = 1>(u)
        c = Sub(u, m)
        s = Mul(c, c)
        v = ReduceMean<axes: ints = [2]>(s)
        e = Constant<value_float = 0.000001>()
        ve = Add(e, v)
        d = Sqrt(ve)
        r = Reciprocal(d)
        q = Mul(r, c)
        g1 = Mul(gamma, q)
        n = Add(beta, g1)"""),
    "layer norm with axes as input and two subtractions": _norm(
        """
        a = Constant<value_ints = [-1]>()
        m = ReduceMean(u, a)
        c = Sub(u, m)
        c2 = Sub(u, m)
        two = Constant<value = float {2.0}>()
        s = Pow(c2, two)
        v = ReduceMean(s, a)
        e = Constant<value = float {0.0001}>()
        ve = Add(v, e)
        d = Sqrt(ve)
        q = Div(c, d)
        g1 = Mul(q, gamma)
        n = Add(g1, beta)""",
        '<ir_version: 9, opset_import: ["": 18]>',
    ),
    "layer norm without affine by Pow -0.5": _norm("""
        m = ReduceMean<axes: ints = [-1]>(u)
        c = Sub(u, m)
        s = Mul(c, c)
        v = ReduceMean<axes: ints = [-1]>(s)
        e = Constant<value = float {0.00001}>()
        ve = Add(v, e)
        half = Constant<value = float {-0.5}>()
        r = Pow(ve, half)
        z = Mul(c, r)
        g1 = Mul(z, gamma)
        g2 = Add(g1, beta)
        n = Add(z, g2)"""),
    "layer norm by ReduceSum over n": _norm("""
        a = Constant<value_ints = [-1]>()
        count = Constant<value = float {8.0}>()
        t = ReduceSum(u, a)
        m = Div(t, count)
        c = Sub(u, m)
        s = Mul(c, c)
        ts = ReduceSum(s, a)
        v = Div(ts, count)
        e = Constant<value = float {0.00001}>()
        ve = Add(v, e)
        d = Sqrt(ve)
        q = Div(c, d)
        g1 = Mul(q, gamma)
        n = Add(g1, beta)"""),
    "RMS norm of a language model": _norm("""
        two = Constant<value = float {2.0}>()
        s = Pow(u, two)
        v = ReduceMean<axes: ints = [-1]>(s)
        e = Constant<value = float {0.000001}>()
        ve = Add(v, e)
        d = Sqrt(ve)
        one = Constant<value = float {1.0}>()
        r = Div(one, d)
        q = Mul(u, r)
        g1 = Mul(gamma, q)
        n = Add(g1, beta)"""),
    "RMS norm at opset 23": """<ir_version: 11, opset_import: ["": 23]>
        g (float[B,5,8] x, float[8,8] w_in, float[8] gamma) => (float[B,5,8] y) {
        u = MatMul(x, w_in)
        a = Constant<value_ints = [-1]>()
        s = Mul(u, u)
        v = ReduceMean(s, a)
        e = Constant<value = float {0.00001}>()
        ve = Add(v, e)
        d = Sqrt(ve)
        q = Div(u, d)
        y = Mul(q, gamma)
    }""",
    "layer norm in a Cast island of a half-precision model": """<ir_version: 8, opset_import: ["": 17]>
        g (float16[B,5,8] x, float16[8] gamma, float16[8] beta, float16[8,4] w_out) => (float16[B,5,4] y) {
        u = Cast<to: int = 1>(x)
        m = ReduceMean<axes: ints = [-1]>(u)
        c = Sub(u, m)
        s = Mul(c, c)
        v = ReduceMean<axes: ints = [-1]>(s)
        e = Constant<value = float {0.00001}>()
        ve = Add(v, e)
        d = Sqrt(ve)
        q = Div(c, d)
        h = Cast<to: int = 10>(q)
        g1 = Mul(h, gamma)
        n = Add(g1, beta)
        y = MatMul(n, w_out)
    }""",
}
