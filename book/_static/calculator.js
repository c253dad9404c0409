/* What to set, computed in the page: the formulas of lk.recommend_rank, lk.recommend_learning_rate and lk.estimate over
   the numbers that the page carries. The tests compare this with the library on hundreds of questions. */
"use strict";

const lorakitCalculator = (() => {
  const INTO_ATTENTION = ["q_proj", "k_proj", "v_proj", "qkv_proj"];
  const LINEAR = ["attention", "mlp", "experts"];
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const thousands = (value) => value.toLocaleString("en-US");

  class Refusal extends Error {}

  function check(question, data) {
    const own = question.model ? [] : ["width", "layers", "vocabulary"];
    const optional = ["batch", "rank"].filter((name) => question[name] !== null && question[name] !== undefined);
    for (const name of ["amount", "length", ...optional, ...own]) {
      const [low, high, words] = data.limits[name];
      const value = question[name];
      if (!Number.isInteger(value) || value < low || value > high) {
        const given = value === null || value === undefined || Number.isNaN(value) ? "nothing" : value;
        throw new Refusal(`${words}: ${given}; allowed: ${thousands(low)} to ${thousands(high)}`);
      }
    }
    if (question.task === "rl" && question.batch && question.batch % data.samples) {
      throw new Refusal(`sequences of a step: ${question.batch}; allowed by reward: a multiple of ${data.samples}`);
    }
    if (!question.model && question.width % 64) {
      throw new Refusal(`width: ${question.width}; allowed: a multiple of 64`);
    }
  }

  /* A Llama-type model of a width: MLP 3.5 times as wide, a quarter of the heads for keys, a head of its own. */
  function ownShape({ width, layers, vocabulary }) {
    const head = width % 128 === 0 ? 128 : 64;
    const key = Math.max(1, Math.floor(Math.floor(width / head) / 4)) * head;
    const query = Math.floor(width / head) * head;
    const inner = (7 * width) / 2;
    return {
      kind: "unknown", width, layers, query, key, inner, head, norms: 2, headNorms: null, experts: 1, active: 1,
      tied: false, vectors: width * (2 * layers + 1),
      matrices: [
        ["attention", "q_proj", query, width, layers], ["attention", "k_proj", key, width, layers],
        ["attention", "v_proj", key, width, layers], ["attention", "o_proj", width, query, layers],
        ["mlp", "gate_proj", inner, width, layers], ["mlp", "up_proj", inner, width, layers],
        ["mlp", "down_proj", width, inner, layers],
        ["embedding", "embed_tokens", vocabulary, width, 1], ["head", "lm_head", vocabulary, width, 1],
      ],
      adapted: [0, 1, 2, 3, 4, 5, 6].map((index) => [index, 1]),
    };
  }

  /* The shape with its matrices as objects, those of the adapter with their factor on the rank, and its weights. */
  function shapeOf(question, data) {
    const raw = question.model ? data.models[question.model] : ownShape(question);
    if (!raw) throw new Refusal(`${question.model}: no such model in the list`);
    const matrices = raw.matrices.map(([component, name, out, into, count]) => ({ component, name, out, into, count }));
    const adapted = raw.adapted.map(([index, factor]) => ({ ...matrices[index], factor }));
    const own = matrices.filter((m) => !(m.component === "head" && raw.tied));
    return { ...raw, matrices, adapted, vocabulary: matrices.find((m) => m.component === "head").out,
             parameters: sum(own.map((m) => m.out * m.into * m.count)) + raw.vectors };
  }

  const loraWeights = (matrices, rank) => sum(matrices.map((m) => rank * m.factor * m.count * (m.out + m.into)));
  const usefulWeights = (matrices, rank) =>
    sum(matrices.map((m) => Math.min(rank * m.factor, Math.min(m.out, m.into)) * m.count * (m.out + m.into)));

  function recommendRank(shape, bits, data) {
    const largest = Math.max(...shape.adapted.map((m) => Math.min(m.out, m.into)));
    const held = (rank) => usefulWeights(shape.adapted, rank) * data.bitsPerParameter;
    if (held(largest) < bits) {
      throw new Refusal(`${thousands(bits)} bits fit into no LoRA on this model: at rank ${thousands(largest)}, which ` +
        `reaches every update, it holds ${thousands(held(largest))}. Train all weights, or take a larger model`);
    }
    let [low, high] = [1, largest];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      [low, high] = held(middle) >= bits ? [low, middle] : [middle + 1, high];
    }
    const [least, most] = data.advised.map((times) => Math.min(times * low, largest));
    const power = 2 ** Math.floor(Math.log2(most));
    return { floor: low, chosen: power >= least ? power : most, held, largest };
  }

  function learningRate(shape, rank, steps, task, data) {
    const law = data.rate;
    const as = task === "rl" ? 16 : rank;
    let rate;
    if (shape.width < law.small) {
      rate = law.smallFull * (2000 / shape.width) ** law.smallWidth;
      if (as !== null) rate *= law.smallRatio;
      rate *= (law.reference / steps) ** (as === null ? law.fullSteps : law.steps);
    } else {
      rate = law.loraAt2000 * (2000 / shape.width) ** law.width;
      rate = as === null ? rate / law.loraOverFull : rate * (as / 16) ** law.rank;
    }
    if (task === "rl") rate *= law.rl / (rank === null ? law.rlRatio : 1);
    if (rank !== null) rate *= (32 / data.alpha) ** law.alpha;
    const wide = law.fitted.some((kind) => shape.kind.startsWith(kind)) ? Math.sqrt(10) : 5;
    return { rate, sweep: [rate / wide, rate, rate * wide] };
  }

  const rowNorm = (width, wide, lora) => (width + 1) * Math.max(4, wide) + (lora ? 0 : width * wide);

  /* Bytes a token that what shares an input keeps of it; a half-precision base keeps a float32 copy an adapter. */
  function inputBytes(rank, touched, wide, width, ...names) {
    if (rank === null) return width * wide;
    return width * 4 * names.filter((name) => touched.has(name)).length;
  }

  function layerBytes(shape, rank, touched, wide, reachedBefore) {
    const has = (...names) => names.some((name) => touched.has(name));
    const norms = Math.floor(shape.norms / 2);
    let saved = reachedBefore ? norms * rowNorm(shape.width, wide, rank !== null) : 0;
    saved += inputBytes(rank, touched, wide, shape.width, ...INTO_ATTENTION);
    const attends = reachedBefore || has(...INTO_ATTENTION);
    if (attends) {
      saved += (2 * shape.query + 2 * shape.key) * wide + Math.floor(shape.query / shape.head) * Math.max(4, wide);
      if (shape.matrices.some((m) => m.name === "qkv_proj")) saved += (shape.query + shape.key) * wide;
      if (shape.headNorms) {
        const sizes = shape.headNorms === "head" ? [shape.head, shape.head] : [shape.query, shape.key];
        [shape.query, shape.key].forEach((side, k) => {
          saved += Math.floor((rowNorm(sizes[k], wide, rank !== null) * side) / sizes[k]);
        });
      }
    }
    if (rank !== null) saved += inputBytes(rank, touched, wide, shape.query, "o_proj");
    const reached = attends || has("o_proj");
    saved += reached ? norms * rowNorm(shape.width, wide, rank !== null) : 0;
    saved += inputBytes(rank, touched, wide, shape.width, "gate_proj", "up_proj", "gate_up_proj");
    const gate = reached || has("gate_proj", "gate_up_proj");
    const up = reached || has("up_proj", "gate_up_proj");
    saved += shape.inner * wide * (2 * gate + up);
    saved += inputBytes(rank, touched, wide, shape.inner, "down_proj");
    return saved + sum([...touched].filter(([name]) => name !== "lm_head").map(([, own]) => 4 * own));
  }

  /* Bytes of a training step by part: weights and activations in bfloat16, adapters and full's masters in float32. */
  function trainingBytes(shape, rank, batch, length, recompute, passes, fourBit) {
    const wide = 2;
    const touched = new Map(rank === null ? [] : shape.adapted.map((m) => [m.name, rank * m.factor]));
    const masters = rank === null;
    const trained = masters ? shape.parameters : loraWeights(shape.adapted, rank);
    const packed = shape.matrices.filter((m) => fourBit && LINEAR.includes(m.component));
    const packedWeights = sum(packed.map((m) => m.out * m.into * m.count));
    const end = shape.vocabulary * 4 + 8 + inputBytes(rank, touched, wide, shape.width, "lm_head") +
      rowNorm(shape.width, wide, rank !== null) + (masters ? 8 : 0);
    const later = layerBytes(shape, rank, touched, wide, true);
    const tokens = batch * length;
    let [saved, loss, layer] = [0, tokens * end, 0];
    if (recompute) {
      saved = tokens * (shape.layers * shape.width * wide + end) + 4;
      layer = tokens * (later + (3 * shape.inner + shape.width) * wide);
    } else {
      const first = layerBytes(shape, rank, touched, wide, masters);
      saved = tokens * (first + (shape.layers - 1) * later + end) + 2 * length * shape.head * wide + 4;
    }
    return {
      weights: (shape.parameters - packedWeights) * wide + Math.round((packedWeights * (fourBit || 0)) / 8),
      masters: masters ? trained * 4 : 0,
      adapter: masters ? 0 : trained * 4,
      gradients: trained * (4 + (masters ? wide : 0)),
      optimizer: 2 * trained * 4,
      foreach: trained * 4,
      activations: saved,
      logits: tokens * shape.vocabulary * (2 * 4 + wide),
      recomputed: Math.max(0, layer - loss),
      accumulated: passes > 1 ? trained * (masters ? wide : 4) : 0,
      tied: masters && shape.tied ? 2 * shape.vocabulary * shape.width * 4 : 0,
      dequantised: Math.max(0, ...packed.map((m) => m.out * m.into * wide)),
    };
  }

  function peakBytes(of) {
    const standing = of.weights + of.masters + of.adapter + of.optimizer + of.dequantised;
    return standing + Math.max(of.gradients + Math.max(of.tied, of.foreach, of.recomputed),
                               of.accumulated + of.activations + Math.max(of.logits, of.recomputed));
  }

  /* Matrices of the first layer whose input depends on an adapter before them. */
  function reachedMatrices(touched) {
    const has = (...names) => names.some((name) => touched.has(name));
    const found = new Set(has(...INTO_ATTENTION) ? ["o_proj"] : []);
    const mlp = ["gate_proj", "up_proj", "gate_up_proj", "gate"];
    if (has(...INTO_ATTENTION, "o_proj")) [...mlp, "down_proj"].forEach((name) => found.add(name));
    else if (has(...mlp)) found.add("down_proj");
    return found;
  }

  function trainingFlops(shape, rank, length, recompute) {
    const adapters = rank === null ? [] : shape.adapted.map((m) => ({ ...m, rank: rank * m.factor }));
    const touched = new Set(adapters.map((m) => m.name));
    const everywhere = rank === null || recompute;
    const reached = reachedMatrices(touched);
    const passes = (m) => {
      const visits = m.count * (m.component === "experts" ? shape.active / shape.experts : 1);
      const here = everywhere || m.component === "head" || reached.has(m.name);
      return [visits, visits * (here ? 1 : 1 - 1 / shape.layers)];
    };
    let [matrices, own, again] = [0, 0, 0];
    for (const m of shape.matrices.filter((one) => one.component !== "embedding")) {
      const product = 2 * m.into * m.out;
      const [visits, upstream] = passes(m);
      matrices += product * (visits + upstream + (rank === null ? visits : 0));
      if (recompute && m.component !== "head" && (m.name !== "down_proj" || touched.has(m.name))) again += product * visits;
    }
    for (const m of adapters) {
      const [down, up] = [2 * m.rank * m.into, 2 * m.rank * m.out];
      const [visits, upstream] = passes(m);
      own += (down + up) * visits + up * visits + down * visits + up * Math.max(visits, upstream) + down * upstream;
      if (recompute) again += (down + (m.name === "down_proj" ? 0 : up)) * visits;
    }
    const first = everywhere || INTO_ATTENTION.some((name) => touched.has(name)) ? 0 : 1;
    const score = 2 * length * shape.query;
    const scores = score * (2 * shape.layers + 5 * (shape.layers - first));
    if (recompute) again += 2 * score * shape.layers;
    return { total: matrices + own + scores + again, scores };
  }

  function forwardFlops(shape, rank, length) {
    const seldom = (m) => m.count * (m.component === "experts" ? shape.active / shape.experts : 1);
    const base = shape.matrices.filter((m) => m.component !== "embedding").map((m) => 2 * m.into * m.out * seldom(m));
    const extra = rank === null ? [] : shape.adapted.map((m) => 2 * rank * m.factor * (m.into + m.out) * seldom(m));
    return sum(base) + sum(extra) + 4 * length * shape.query * shape.layers;
  }

  function estimate(shape, rank, run, gpuName, data, fourBit) {
    const [flops, bytesPerSecond, bytes, price] = data.gpus[gpuName];
    const passes = run.batch / run.micro;
    const parts = trainingBytes(shape, rank, run.micro, run.length, run.recompute, passes, fourBit);
    const step = trainingFlops(shape, rank, run.length, run.recompute);
    const tokens = run.micro * run.length;
    const attention = step.scores + (run.recompute ? 4 * run.length * shape.query * shape.layers : 0);
    const speed = data.mfu * flops;
    const again = run.recompute ? 1 : 0;
    const each = Math.max((step.total * tokens - (attention * tokens) / 2) / speed,
                          (parts.weights * (2 + again)) / bytesPerSecond, data.hostSeconds * shape.layers * (3 + again));
    const update = (data.updatePasses * parts.optimizer) / 2 / bytesPerSecond;
    const evaluation = forwardFlops(shape, rank, run.length) * data.evaluationTokens;
    const seconds = run.steps * (passes * each + update) + evaluation / speed;
    const needed = peakBytes(parts) + data.contextBytes;
    return { micro_batch: run.micro, recompute: run.recompute, fits: needed <= data.usable * bytes, needed, parts, seconds,
             cost: price === null ? null : (price * seconds) / 3600 };
  }

  function cheapest(shape, rank, run, gpuName, data, fourBit) {
    const passes = new Set([run.batch]);
    for (let m = 1; m <= 4096; m *= 2) if (run.batch % m === 0) passes.add(m);
    const plans = [];
    for (const recompute of [false, true]) {
      for (const micro of [...passes].sort((a, b) => a - b)) {
        plans.push(estimate(shape, rank, { ...run, micro, recompute }, gpuName, data, fourBit));
      }
    }
    const least = (some) => some.reduce((best, plan) => (plan.needed < best.needed ? plan : best));
    const fitting = plans.filter((plan) => plan.fits);
    if (fitting.length === 0) return least(plans);
    const fastest = Math.min(...fitting.map((plan) => plan.seconds));
    return least(fitting.filter((plan) => plan.seconds <= 1.01 * fastest));
  }

  function smallestGpu(needed, data) {
    const holding = Object.entries(data.gpus).filter(([, gpu]) => needed <= data.usable * gpu[2]);
    if (holding.length === 0) return null;
    return holding.reduce((best, one) => (one[1][2] < best[1][2] ? one : best))[0];
  }

  /* The answer to a question; throws a Refusal, in words, for one that has none. */
  function advise(question, data) {
    check(question, data);
    if (!(question.gpu in data.gpus)) throw new Refusal(`${question.gpu}: no such GPU in the list`);
    const shape = shapeOf(question, data);
    const batch = question.batch || data.batch[question.task];
    if (question.four_bit && shape.experts > 1) {
      throw new Refusal("4 bits: bitsandbytes leaves fused experts as they are; price the base in half precision");
    }
    const found = recommendRank(shape, question.amount, data);
    if (question.rank && question.rank > found.largest) {
      throw new Refusal(`rank ${thousands(question.rank)} is above ${thousands(found.largest)}, the most that a matrix ` +
        "of this model has");
    }
    const rank = question.rank || found.chosen;
    const steps = Math.ceil(question.amount / (batch * (question.task === "sft" ? question.length : 1)));
    const { rate, sweep } = learningRate(shape, rank, steps, question.task, data);
    const run = { batch, steps, length: question.length };
    const lora = cheapest(shape, rank, run, question.gpu, data, question.four_bit ? data.fourBit : null);
    return {
      floor: found.floor, rank, bits_needed: question.amount, bits_held: found.held(rank),
      smallest_side: Math.min(...shape.adapted.map((m) => Math.min(m.out, m.into))), rate, sweep,
      full_rate: learningRate(shape, null, steps, question.task, data).rate, batch, steps, lora,
      full: cheapest(shape, null, run, question.gpu, data, null),
      smallest_gpu: lora.fits ? null : smallestGpu(lora.needed, data),
    };
  }

  return { advise, Refusal };
})();
if (typeof module !== "undefined") module.exports = lorakitCalculator;
