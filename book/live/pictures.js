// "Who is the doctor?": two drawn people, one question, both orders, plain and steered. The model that sees is loaded on request.
(() => {
  const { root, el, labelled, options, short, size, later, cells, key, joined, stop, known, learn, loader, described } = window.steerIt;
  const WORDS = [" first", " second"];
  const SEEDS = /^dso-smol-llava-who-is-per-prompt-\d$/;

  const show = (box, { seeing, steerings }) => {
    const { prompt } = seeing;
    const seeds = Object.keys(steerings).filter((stem) => SEEDS.test(stem)).sort();
    const jobs = [...new Set(seeing.people.map(({ occupation }) => occupation).filter(Boolean))].sort();
    const state = { job: jobs.includes("doctor") ? "doctor" : jobs[0], seed: seeds[0], strength: 0.5 };
    const dressed = seeing.people.filter(({ occupation }) => occupation === state.job);
    const people = [...dressed, ...seeing.people.filter((person) => !dressed.includes(person))]; // who is chosen at first is seen at first
    const chosen = [dressed[0], dressed.find(({ gender, tone }) => gender !== dressed[0].gender && tone === dressed[0].tone) || dressed[1]];
    let turn = 0;

    const gallery = (name, i) => el("fieldset", {}, el("legend", {}, name), el("div", { class: "steer-people" }, ...people.map((person) => {
      const radio = el("input", { type: "radio", name: `steer-person-${i}`, value: person.id, checked: person === chosen[i], onchange: () => ((chosen[i] = person), changed()) });
      return el("label", { class: "steer-person" }, el("img", { src: `${root}model/${person.picture}`, alt: person.about, width: "112", height: "112", loading: "lazy" }), radio);
    })));
    const choice = (list, name, what) => {
      const select = el("select", { onchange: () => ((state[what] = select.value), changed()) });
      options(select, list);
      select.value = state[what];
      return labelled(name, select);
    };
    const slider = el("input", { type: "range", min: "-1", max: "1.5", step: "0.25", value: "0.5", oninput: () => ((state.strength = Number(slider.value)), changed()) });
    const strength = labelled("Strength", slider), shown = el("output"), note = el("p", { class: "steer-warning", role: "status" });
    strength.querySelector("label").append(" ", shown);
    const result = el("div"), status = el("p", { class: "steer-status", role: "status" });

    // The question with one order of the two people, and the other one.
    const orders = () => [chosen, [chosen[1], chosen[0]]].map(([first, second]) => ({
      do: "choose", model: "smol-llava", words: WORDS, steering: state.seed, layers: null,
      prompt: joined(prompt.map((part) => ({ occupation: state.job, first: { person: first.id }, second: { person: second.id } })[part.fill] || part)),
    }));
    // P(A) out of the two answers, when A is shown first and when A is shown second.
    const both = (s) => {
      const [one, two] = orders().map((what) => known(what).get(key(s)));
      return one && two ? [one[0] / (one[0] + one[1]), two[1] / (two[0] + two[1])] : null;
    };
    const draw = () => {
      const sides = [both(0), both(state.strength)];
      const row = (name, of) => [name, ...sides.map((p) => (p ? short(of(p), 2).replace("-", "−") : "–"))];
      shown.textContent = size(state.strength);
      result.replaceChildren(cells(["probability", "unsteered", `strength ${size(state.strength)}`], [
        row("Person A is shown first", ([a]) => a), row("Person A is shown second", ([, b]) => b), row("Average of both orders", ([a, b]) => (a + b) / 2),
        row("Order effect: how much it helps to be shown first", ([a, b]) => a - b), row("Bias: how far the average is from even, 0 to 1", ([a, b]) => Math.abs(a + b - 1)),
      ], `Probability that person A is the ${state.job}, out of the two answers “first” and “second”`));
      const [a, b] = chosen.map(({ occupation }) => occupation);
      note.textContent = a !== b ? "The two wear different clothes, so the clothes may tell who it is: this question has an answer, and what you see is not bias." :
        state.strength < 0 ? "Below 0 the steering runs backwards, which it was not made for." : state.strength > 1 ? "Beyond 1 the steering is stronger than it was made for." : "";
      note.hidden = !note.textContent;
    };
    const run = async () => {
      const now = ++turn;
      stop();
      try {
        for (const what of orders()) {
          status.textContent = "Asking in both orders …";
          await learn(what, [state.strength, 0], () => now === turn && draw());
          if (now !== turn) return;
        }
        status.textContent = "Computed in this page just now, in both orders.";
      } catch (error) {
        if (now === turn) status.textContent = error.message;
      }
    };
    const soon = later(250, run);
    const changed = () => {
      turn++;
      stop();
      status.textContent = "";
      draw();
      soon();
    };
    box.after(el("div", { class: "steer-controls" }, gallery("Person A", 0), gallery("Person B", 1)),
      el("div", { class: "steer-controls" },
        el("div", {}, choice(jobs.map((job) => [job, job]), "Who is the …", "job"), choice(seeds.map((stem, i) => [stem, `DSO per prompt, training ${i + 1} of ${seeds.length}`]), "Steering", "seed"), strength, note),
        el("div", {}, result, status)));
    draw();
    run();
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll(".steer-it[data-pictures]")) {
      const box = el("div", { class: "steer-live" });
      let there = false;
      place.replaceChildren(el("div", { class: "steer-body" }, box));
      loader(box, true, "The model that sees, and the drawings, come with the model of the first part: whichever you load first, the rest is a small addition.", async () => {
        if (!there) show(box, await described());
        there = true;
      });
    }
  });
})();
