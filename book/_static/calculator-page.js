/* The calculator's form: reads it, asks lorakitCalculator, and writes the answer, the memory and the code. */
"use strict";

const lorakitAnswer = (() => {
  const rate = (value) => value.toExponential(1).replace("e+", "e");
  const short = (value) =>
    value >= 100 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
  const whole = (value) => value.toLocaleString("en-US");

  const duration = (seconds) => (seconds < 7200 ? `${short(seconds / 60)} minutes` : `${short(seconds / 3600)} hours`);
  const dollars = (value) =>
    `${value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })} dollars`;

  const prompts = (answer, data) => Math.floor(answer.batch / data.samples);
  const rankFrom = (question, answer) => (question.rank
    ? `yours; the floor is ${whole(answer.floor)}` : `the floor, ${whole(answer.floor)}, times four to eight`);
  const inGroups = (question, answer, data) =>
    question.task === "rl" ? ` (${whole(prompts(answer, data))} prompt${prompts(answer, data) > 1 ? "s" : ""} × ${data.samples} samples)` : "";

  /* The values of the answer as text, by the names in its lines. */
  function shown(question, answer, data) {
    const { lora, full } = answer;
    return {
      rank: whole(answer.rank), "rank-from": rankFrom(question, answer), floor: whole(answer.floor), alpha: String(data.alpha), rate: rate(answer.rate),
      below: rate(answer.sweep[0]), above: rate(answer.sweep[2]), "full-rate": rate(answer.full_rate),
      batch: whole(answer.batch), "in-groups": inGroups(question, answer, data), micro: whole(lora.micro_batch),
      passes: whole(answer.batch / lora.micro_batch),
      recompute: lora.recompute ? ", with recompute" : "", steps: whole(answer.steps),
      memory: short(lora.needed / 1e9), card: short(data.gpus[question.gpu][2] / 1e9),
      fits: lora.fits ? ": fits" : ": does not fit", time: duration(lora.seconds),
      price: lora.cost === null ? "no list price" : dollars(lora.cost),
      "full-memory": short(full.needed / 1e9), "full-fits": full.fits ? ": fits" : ": does not fit",
      learner: question.task === "rl" ? ", sampling not counted" : "",
      "full-time": duration(full.seconds), "full-micro": whole(full.micro_batch),
      "full-recompute": full.recompute ? ", with recompute" : "",
    };
  }

  /* What the placeholders of the code stand for. */
  function codeValues(question, answer, data) {
    const { micro_batch: micro, recompute } = answer.lora;
    const samples = data.samples;
    const found = {
      model: question.model ? data.models[question.model].hub : data.ownModel, rank: answer.rank, alpha: data.alpha,
      rate: rate(answer.rate), below: rate(answer.sweep[0]), above: rate(answer.sweep[2]), length: question.length,
      steps: answer.steps, batch: answer.batch, micro, passes: answer.batch / micro, samples,
      prompts: Math.floor(answer.batch / samples), groups: Math.max(samples, micro), adapter: question.four_bit ? "qlora" : "lora",
    };
    for (const [name, value] of Object.entries({ recompute, four_bit: question.four_bit, keep: !recompute })) {
      found[`${name}_lower`] = String(value);
      found[name] = value ? "True" : "False";
    }
    return found;
  }

  const fill = (text, values) =>
    Object.entries(values).reduce((filled, [name, value]) => filled.replaceAll(`X${name}X`, String(value)), text);

  /* What a reader should know besides, in words. */
  function notes(question, answer, data) {
    const said = [];
    const { lora } = answer;
    if (!lora.fits) {
      const help = answer.smallest_gpu ? `the smallest card in the list that holds it is ${answer.smallest_gpu}`
        : "no card in the list holds it: spread the model over several";
      const four = question.four_bit ? "" : ", or take the base in 4 bits";
      said.push(`${question.gpu} is too small: ${short(lora.needed / 1e9)} GB are needed even one sequence at a time ` +
        `with recompute; ${help}${four}.`);
    }
    if (answer.bits_held < answer.bits_needed) {
      said.push(`Rank ${whole(answer.rank)} holds fewer bits than the data carry: it learns on, but slower.`);
    }
    if (answer.rank > answer.smallest_side) {
      said.push(`Rank ${whole(answer.rank)} is above ${whole(answer.smallest_side)}, the smaller side of the smallest ` +
        "adapted matrix: there the rest adds nothing.");
    }
    const model = data.models[question.model];
    if (model && model.experts > 1) {
      const reached = model.adapted.some(([index]) => model.matrices[index][0] === "experts");
      said.push(reached ? "PEFT's all-linear reaches this model's experts and routers, not a dense MLP beside them."
        : "PEFT's all-linear does not reach this model's experts: attention alone is adapted and counted.");
    }
    if (answer.steps < data.fewSteps) {
      said.push(`Only ${whole(answer.steps)} steps: take a smaller batch, or pass over the data several times.`);
    }
    if (question.task === "rl" && prompts(answer, data) < data.fewPrompts) {
      said.push(`${whole(prompts(answer, data))} prompt${prompts(answer, data) > 1 ? "s" : ""} a step: a group whose ` +
        "samples are all right or all wrong teaches nothing, so take more.");
    }
    if (question.four_bit) said.push("Whether 4 bits cost quality was not measured here.");
    return said;
  }

  const written = (words, values) => words.replace(/\{([\w-]+)\}/g, (_, name) => values[name]);

  return { shown, codeValues, fill, notes, short, written };
})();

(() => {
  const place = document.querySelector(".lk-calculator");
  if (!place) return;
  const data = JSON.parse(place.querySelector(".lk-data").textContent);
  const form = place.querySelector(".lk-form");
  const named = (name) => form.elements.namedItem(name);
  const AMOUNTS = { sft: ["Label tokens", 20_000_000], rl: ["Episodes (prompts × samples)", 80_000] };

  function read() {
    const number = (name) => (named(name).value.trim() === "" ? null : Number(named(name).value));
    const question = { model: named("model").value || null, task: named("task").value, gpu: named("gpu").value,
                       four_bit: named("four_bit").checked };
    for (const name of ["amount", "length", "batch", "rank", "width", "layers", "vocabulary"]) question[name] = number(name);
    return question;
  }

  function writeLine(line, values, support) {
    const row = place.querySelector(`[data-line="${line}"]`);
    const [measured, sure, page, chapter] = support;
    row.querySelector(".lk-value").textContent = lorakitAnswer.written(data.lines[line], values);
    row.querySelector(".lk-measured").textContent = measured;
    const [level, why] = [sure.slice(0, sure.indexOf(": ")), sure.slice(sure.indexOf(": ") + 2)];
    const chip = document.createElement("span");
    chip.className = `lk-chip lk-${level}`;
    chip.textContent = level;
    row.querySelector(".lk-sure").replaceChildren(chip, ` ${why}`);
    const link = row.querySelector(".lk-chapter");
    link.href = `${page}.html`;
    link.textContent = chapter;
  }

  /* Two bars: what the step holds at its peak, by kind, against the card. */
  function drawMemory(question, answer) {
    const bars = place.querySelector(".lk-bars");
    const card = data.gpus[question.gpu][2];
    const beside = data.contextBytes;
    const widest = Math.max(card, answer.lora.needed, answer.full.needed);
    const bar = (name, plan) => {
      const standing = plan.parts.masters + plan.parts.adapter + plan.parts.optimizer;
      const weights = plan.parts.weights + plan.parts.dequantised;
      const kinds = { "frozen or trained weights": weights, "trained copies and AdamW": standing,
                      "gradients, activations, loss": plan.needed - beside - weights - standing, "not tensors": beside };
      const row = document.createElement("div");
      row.className = "lk-bar";
      const title = document.createElement("span");
      title.textContent = `${name}: ${lorakitAnswer.short(plan.needed / 1e9)} GB`;
      const track = document.createElement("div");
      track.className = "lk-track";
      Object.entries(kinds).forEach(([kind, size], index) => {
        const part = document.createElement("i");
        part.className = `lk-part lk-part-${index}`;
        part.style.width = `${(100 * Math.max(0, size)) / widest}%`;
        part.title = `${kind}: ${lorakitAnswer.short(size / 1e9)} GB`;
        track.append(part);
      });
      const limit = document.createElement("b");
      limit.style.left = `${(100 * card) / widest}%`;
      limit.title = question.gpu;
      track.append(limit);
      row.append(title, track);
      return [row, kinds];
    };
    const [first, kinds] = bar("LoRA", answer.lora);
    const [second] = bar("full fine-tuning", answer.full);
    const legend = document.createElement("p");
    Object.keys(kinds).forEach((kind, index) => {
      const mark = document.createElement("i");
      mark.className = `lk-part lk-part-${index}`;
      legend.append(mark, ` ${kind} `);
    });
    legend.append(`line: the ${question.gpu}'s memory`);
    bars.replaceChildren(first, second, legend);
  }

  function write() {
    const question = read();
    const [label] = AMOUNTS[question.task];
    form.querySelector(".lk-amount").textContent =
      question.amount === null ? label : `${label}: ${question.amount.toLocaleString("en-US")}`;
    const said = place.querySelector(".lk-notes");
    let answer;
    try {
      answer = lorakitCalculator.advise(question, data);
    } catch (error) {
      if (!(error instanceof lorakitCalculator.Refusal)) throw error;
      said.textContent = `No answer. ${error.message}.`;
      place.classList.add("lk-refused");
      return;
    }
    place.classList.remove("lk-refused");
    said.textContent = lorakitAnswer.notes(question, answer, data).join(" ");
    const values = lorakitAnswer.shown(question, answer, data);
    place.querySelector(".lk-headline").textContent = lorakitAnswer.written(data.headline, values);
    for (const line of Object.keys(data.lines)) writeLine(line, values, data.support[question.task][line]);
    const inCode = lorakitAnswer.codeValues(question, answer, data);
    place.querySelectorAll(".lk-tabs .sd-tab-content").forEach((tab) => {
      const text = tab.querySelector(`template[data-task="${question.task}"]`).innerHTML;
      tab.querySelector(".lk-code").innerHTML = lorakitAnswer.fill(text, inCode);
    });
    drawMemory(question, answer);
  }

  /* An address that ends in #sft or #rl opens that task. */
  function follow() {
    const task = location.hash.slice(1);
    if (!(task in AMOUNTS)) return;
    named("task").value = task;
    named("amount").value = AMOUNTS[task][1];
    write();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.name === "task") {
      named("amount").value = AMOUNTS[event.target.value][1];
    }
    if (event.target.name === "model") {
      form.querySelectorAll(".lk-own").forEach((field) => { field.hidden = event.target.value !== ""; });
    }
    write();
  });
  window.addEventListener("hashchange", follow);
  form.hidden = false;
  write();
  follow();
})();
