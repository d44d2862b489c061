"""TEXTS: one tiny model in ONNX text for every spelling that exporters use and every construct that trips tools up.

Graph inputs named w…, b…, gamma, beta, mean, variance, table or empty are weights: `models.tiny` gives them seeded
numbers. What is between `=>` and `{` are the outputs; `B` and `T` are open dimensions.
"""

from __future__ import annotations

from models.tiny_norms import NORMS

_17 = '<ir_version: 8, opset_import: ["": 17]>'
_14 = '<ir_version: 7, opset_import: ["": 14]>'


def _activation(body: str) -> str:
    """An activation between two MatMuls."""
    return f"""{_17} g (float[B,8] x, float[8,8] w_in, float[8,4] w_out) => (float[B,4] y) {{
        u = MatMul(x, w_in)
        {body}
        y = MatMul(a, w_out)
    }}"""


_GELU_TANH = """
        three = Constant<value = float {3.0}>()
        cube = Pow(u, three)
        k = Constant<value = float {0.044715}>()
        t1 = Mul(cube, k)
        t2 = Add(u, t1)
        r = Constant<value = float {0.7978845608}>()
        t3 = Mul(t2, r)
        t = Tanh(t3)
        one = Constant<value = float {1.0}>()
        p = Add(t, one)
        half = Constant<value = float {0.5}>()"""

_ACTIVATIONS = {
    "GELU of torch: Div, Erf, Add, Mul, Mul": _activation("""
        r = Constant<value = float {1.4142135}>()
        d = Div(u, r)
        f = Erf(d)
        one = Constant<value = float {1.0}>()
        p = Add(f, one)
        m = Mul(u, p)
        half = Constant<value = float {0.5}>()
        a = Mul(m, half)"""),
    "GELU of Paddle: half first, six digits": _activation("""
        half = Constant<value = float[1] {0.5}>()
        h = Mul(u, half)
        r = Constant<value = float[1] {0.707107}>()
        d = Mul(u, r)
        f = Erf(d)
        one = Constant<value = float[1] {1.0}>()
        p = Add(one, f)
        a = Mul(h, p)"""),
    "tanh GELU, cube by Pow": _activation(_GELU_TANH + "\n        q = Mul(u, p)\n        a = Mul(q, half)"),
    "tanh GELU, half inside": _activation(_GELU_TANH + "\n        q = Mul(half, p)\n        a = Mul(q, u)"),
    "SiLU": _activation("s = Sigmoid(u)\n a = Mul(u, s)"),
    "quick GELU": _activation("""
        k = Constant<value = float {1.702}>()
        t = Mul(u, k)
        s = Sigmoid(t)
        a = Mul(s, u)"""),
    "hard-swish of Paddle": _activation("""
        three = Constant<value = float[1] {3.0}>()
        t = Add(u, three)
        low = Constant<value = float {0.0}>()
        high = Constant<value = float {6.0}>()
        k = Clip(t, low, high)
        m = Mul(u, k)
        six = Constant<value = float[1] {6.0}>()
        a = Div(m, six)"""),
    "Mish": _activation("s = Softplus(u)\n t = Tanh(s)\n a = Mul(u, t)"),
    "sigmoid by Exp": _activation("""
        n = Neg(u)
        e = Exp(n)
        one = Constant<value = float {1.0}>()
        p = Add(e, one)
        a = Div(one, p)"""),
}

_LINEAR = {
    "Conv and BatchNormalization": f"""{_14} g (float[B,3,8,8] x, float[6,3,3,3] w, float[6] gamma, float[6] beta,
        float[6] mean, float[6] variance) => (float[B,6,8,8] y) {{
        c = Conv<pads: ints = [1, 1, 1, 1]>(x, w)
        n = BatchNormalization(c, gamma, beta, mean, variance)
        y = Relu(n)
    }}""",
    "Conv, scalar affine, hard-swish, scalar affine, depthwise Conv": f"""{_14}
        g (float[B,4,8,8] x, float[4,4,1,1] w1, float[4] b1, float[4,1,3,3] w2) => (float[B,4,8,8] y) {{
        c = Conv(x, w1, b1)
        k1 = Constant<value = float[1] {{1.7}}>()
        k2 = Constant<value = float[1] {{-0.6}}>()
        m = Mul(k1, c)
        u = Add(m, k2)
        three = Constant<value = float[1] {{3.0}}>()
        t = Add(u, three)
        low = Constant<value = float {{0.0}}>()
        high = Constant<value = float {{6.0}}>()
        s = Clip(t, low, high)
        q = Mul(u, s)
        six = Constant<value = float[1] {{6.0}}>()
        h = Div(q, six)
        k3 = Constant<value = float[1] {{0.3}}>()
        k4 = Constant<value = float[1] {{0.05}}>()
        m2 = Mul(k3, h)
        u2 = Add(m2, k4)
        y = Conv<group: int = 4, pads: ints = [1, 1, 1, 1]>(u2, w2)
    }}""",
    "affine in front of an unpadded Conv with groups": f"""{_14}
        g (float[B,4,6,6] x, float[1,4,1,1] w_scale, float[4,1,1] b_shift, float[6,2,3,3] w, float[6] b)
        => (float[B,6,4,4] y) {{
        m = Mul(x, w_scale)
        s = Sub(m, b_shift)
        y = Conv<group: int = 2>(s, w, b)
    }}""",
    "ConvTranspose with groups and BatchNormalization": f"""{_14} g (float[B,4,5,5] x, float[4,3,2,2] w, float[6] b,
        float[6] gamma, float[6] beta, float[6] mean, float[6] variance) => (float[B,6,10,10] y) {{
        c = ConvTranspose<group: int = 2, strides: ints = [2, 2]>(x, w, b)
        y = BatchNormalization<epsilon: float = 0.001>(c, gamma, beta, mean, variance)
    }}""",
    "Gemm, both layouts, and BatchNormalization": f"""{_14} g (float[B,6] x, float[8,6] w1, float[8] b1, float[8,4] w2,
        float[4] gamma, float[4] beta, float[4] mean, float[4] variance) => (float[B,4] y) {{
        h = Gemm<transB: int = 1>(x, w1, b1)
        r = Relu(h)
        g1 = Gemm(r, w2)
        y = BatchNormalization(g1, gamma, beta, mean, variance)
    }}""",
    "MatMul, Add, layer scale, residual": f"""{_17} g (float[B,5,8] x, float[8,8] w, float[8] b, float[8] w_scale)
        => (float[B,5,8] y) {{
        m = MatMul(x, w)
        a = Add(b, m)
        s = Mul(a, w_scale)
        y = Add(s, x)
    }}""",
    "two MatMuls that share a weight": f"""{_17} g (float[B,8] x, float[8,8] w, float[8] b) => (float[B,8] y) {{
        m = MatMul(x, w)
        a = Add(m, b)
        t = Tanh(a)
        m2 = MatMul(t, w)
        two = Constant<value = float {{2.0}}>()
        y = Mul(m2, two)
    }}""",
    "attention": f"""{_17} g (float[B,T,8] x, float[8,8] w_q, float[8] b_q, float[8,8] w_k, float[8] b_k, 
        float[8,8] w_v, float[8,8] w_o, float[8] b_o) => (float[B,T,8] y) {{
        zero = Constant<value_ints = [0]>()
        one = Constant<value_ints = [1]>()
        two = Constant<value_ints = [2]>()
        heads = Constant<value_ints = [2, 4]>()
        width = Constant<value_ints = [8]>()
        shape = Shape(x)
        batch = Slice(shape, zero, one)
        tokens = Slice(shape, one, two)
        split = Concat<axis: int = 0>(batch, tokens, heads)
        join = Concat<axis: int = 0>(batch, tokens, width)
        q0 = MatMul(x, w_q)
        q1 = Add(q0, b_q)
        q2 = Reshape(q1, split)
        q = Transpose<perm: ints = [0, 2, 1, 3]>(q2)
        k0 = MatMul(x, w_k)
        k1 = Add(k0, b_k)
        k2 = Reshape(k1, split)
        k = Transpose<perm: ints = [0, 2, 3, 1]>(k2)
        v0 = MatMul(x, w_v)
        v1 = Reshape(v0, split)
        v = Transpose<perm: ints = [0, 2, 1, 3]>(v1)
        root = Constant<value = float {{0.5}}>()
        qs = Mul(q, root)
        scores = MatMul(qs, k)
        p = Softmax<axis: int = -1>(scores)
        o1 = MatMul(p, v)
        o2 = Transpose<perm: ints = [0, 2, 1, 3]>(o1)
        o3 = Reshape(o2, join)
        o4 = MatMul(o3, w_o)
        o5 = Add(o4, b_o)
        y = Add(o5, x)
    }}""",
    "residual and post-norm": f"""{_17} g (float[B,5,8] x, float[8,8] w, float[8] b, float[8] gamma, float[8] beta)
        => (float[B,5,8] y) {{
        m = MatMul(x, w)
        a = Add(m, b)
        r = Add(x, a)
        y = LayerNormalization(r, gamma, beta)
    }}""",
    "DequantizeLinear over a constant": f"""{_17} g (float[B,4] x) => (float[B,3] y) {{
        codes = Constant<value = int8[4,3] {{1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -127}}>()
        scale = Constant<value = float {{0.02}}>()
        zero = Constant<value = int8 {{0}}>()
        w = DequantizeLinear(codes, scale, zero)
        y = MatMul(x, w)
    }}""",
    "embedding": f"""{_17} g (int64[B,T] ids, float[10,8] table, float[8,4] w) => (float[B,T,4] y) {{
        e = Gather(table, ids)
        y = MatMul(e, w)
    }}""",
}

_CONSTRUCTS = {
    "If with captures in both branches": f"""{_17} g (float[B,4] x, bool flag, float[4,4] w1, float[4,4] w2, float[4] b)
        => (float[B,4] y) {{
        u = Relu(x)
        y = If (flag) <
            then_branch = yes () => (float[B,4] y1) {{ m1 = MatMul(u, w1)  y1 = Add(m1, b) }},
            else_branch = no () => (float[B,4] y2) {{
                m2 = MatMul(u, w2)
                half = Constant<value = float {{0.5}}>()
                y2 = Mul(m2, half)
            }}
        >
    }}""",
    "Loop with a linear layer": f"""{_17} g (float[B,4] x, int64 trips, float[4,4] w, float[4] b) => (float[B,4] y) {{
        on = Constant<value = bool {{1}}>()
        y = Loop (trips, on, x) <
            body = step (int64 i, bool on_in, float[B,4] s) => (bool on_out, float[B,4] s_out) {{
                on_out = Identity(on_in)
                m = MatMul(s, w)
                a = Add(m, b)
                s_out = Tanh(a)
            }}
        >
    }}""",
    "Scan with a linear layer": f"""{_17} g (float[T,4] x, float[4] start, float[4,4] w)
        => (float[4] last, float[T,4] y) {{
        last, y = Scan<num_scan_inputs: int = 1,
            body = step (float[4] s, float[4] e) => (float[4] s_out, float[4] o) {{
                t = Add(s, e)
                m = MatMul(t, w)
                s_out = Tanh(m)
                o = Identity(s_out)
            }}
        >(start, x)
    }}""",
    "local function": """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[B,4] x, float[4,4] w, float[4] b) => (float[B,4] y) {
        h = local.layer(x, w, b)
        y = local.layer(h, w, b)
    }
    <domain: "local", opset_import: ["": 17]> layer (u, weight, bias) => (v) {
        m = MatMul(u, weight)
        a = Add(m, bias)
        v = Relu(a)
    }""",
    "half precision": """<ir_version: 8, opset_import: ["": 17]>
        g (float16[B,4] x, float16[4,8] w1, float16[8] b1, float16[8,4] w2) => (float16[B,4] y) {
        m = MatMul(x, w1)
        a = Add(m, b1)
        r = Relu(a)
        y = MatMul(r, w2)
    }""",
    "opset 9": """<ir_version: 4, opset_import: ["": 9]>
        g (float[B,2,4,4] x, float[4,2,1,1] w) => (float[B,4,2,8] y) {
        c = Conv(x, w)
        k = Clip<min: float = -1.0, max: float = 1.5>(c)
        s = Slice<axes: ints = [2], starts: ints = [1], ends: ints = [3]>(k)
        p = Pad<pads: ints = [0, 0, 0, 2, 0, 0, 0, 2], value: float = 0.5>(s)
        d = Dropout<ratio: float = 0.3>(p)
        f = Softmax<axis: int = 1>(d)
        q = Squeeze<axes: ints = [4]>(u5)
        y = Identity(q)
        u5 = Unsqueeze<axes: ints = [4]>(f)
    }""",
    "upsampling, reductions and Split of opset 9": """<ir_version: 4, opset_import: ["": 9]>
        g (float[B,4,3,3] x) => (float[B,2,6,6] y, float[B,2,1,1] z) {
        scales = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()
        u = Upsample<mode: string = "nearest">(x, scales)
        y, low = Split<axis: int = 1, split: ints = [2, 2]>(u)
        z = ReduceMax<axes: ints = [2, 3]>(low)
    }""",
    "operator of com.microsoft": """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[B,4] x, float[4,4] w, float[4] b) => (float[B,4] y) {
        m = MatMul(x, w)
        a = com.microsoft.BiasGelu(m, b)
        y = com.microsoft.QuickGelu(a)
    }""",
    "Resize to sizes that Shape computes": f"""{_14} g (float[B,3,4,4] x, float[2,3,1,1] w, float[B,2,8,8] skip)
        => (float[B,2,8,8] y) {{
        c = Conv(x, w)
        zero = Constant<value_ints = [0]>()
        two = Constant<value_ints = [2]>()
        four = Constant<value_ints = [4]>()
        cs = Shape(c)
        head = Slice(cs, zero, two)
        ss = Shape(skip)
        tail = Slice(ss, two, four)
        sizes = Concat<axis: int = 0>(head, tail)
        r = Resize<mode: string = "linear">(c, , , sizes)
        y = Add(r, skip)
    }}""",
    "table resized at run time": f"""{_14} g (float[B,4,2,2] x, float[1,4,4,4] table) => (float[B,4,2,2] y) {{
        s = Shape(x)
        two = Constant<value_ints = [2]>()
        four = Constant<value_ints = [4]>()
        size = Slice(s, two, four)
        head = Constant<value_ints = [1, 4]>()
        sizes = Concat<axis: int = 0>(head, size)
        r = Resize<mode: string = "cubic">(table, , , sizes)
        y = Add(x, r)
    }}""",
    "unused output and unused nodes": f"""{_17} g (float[B,6] x, float[6,6] w, float[6,2] w_unused) => (float[B,2] y) {{
        m = MatMul(x, w)
        d = MatMul(m, w_unused)
        e = Relu(d)
        y, rest, more = Split<axis: int = 1>(m)
    }}""",
    "zero-size tensor": f"""{_17} g (float[B,4] x, float[0,4] empty, float[4,2] w) => (float[C,2] y) {{
        c = Concat<axis: int = 0>(x, empty)
        y = MatMul(c, w)
    }}""",
    "identities between named ends": f"""{_17} g (float[B,4] x, float[4,4] w) => (float[B,4] y, float[B,4] z) {{
        i = Identity(x)
        zero = Constant<value = float {{0.0}}>()
        s = Add(i, zero)
        m = MatMul(s, w)
        c = Cast<to: int = 1>(m)
        y = Identity(c)
        z = Identity(x)
    }}""",
}

TEXTS: dict[str, str] = {**NORMS, **_ACTIVATIONS, **_LINEAR, **_CONSTRUCTS}
