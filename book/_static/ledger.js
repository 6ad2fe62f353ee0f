// The filters of the Reproducibility page. Without JavaScript the tables are whole and the filters are not there.
document.addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("ledger-filter");
  const rows = [...document.querySelectorAll("table.ledger tbody tr")];
  if (!place || !rows.length) return;
  const folds = [...new Set(rows.map((row) => row.closest("details")))];
  const atFirst = folds.map((fold) => fold.open);

  const labelled = (text, field) => {
    const label = document.createElement("label");
    label.append(text, field);
    place.append(label);
    return field;
  };
  // What failed or was never run is offered first.
  const loud = ["misses", "missing", "not yet recorded", "drifted", "never run", "differ"];
  const place_of = (value) => (loud.includes(value) ? loud.indexOf(value) : loud.length);
  const choice = (text, key) => {
    const select = labelled(text, document.createElement("select"));
    const values = [...new Set(rows.map((row) => row.dataset[key]))].sort((a, b) => place_of(a) - place_of(b));
    for (const value of ["any", ...values]) select.add(new Option(value));
    return { key, select };
  };
  const words = labelled("Words", document.createElement("input"));
  words.type = "search";
  const choices = [choice("Check", "strength"), choice("Verdict", "verdict"), choice("Other machines", "others")];
  const said = document.createElement("output");
  place.append(said);
  place.className = "ledger-filter";

  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const set = choices.filter(({ select }) => select.value !== "any");
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(wanted.every((word) => text.includes(word)) && set.every(({ key, select }) => row.dataset[key] === select.value));
    }
    const some = wanted.length + set.length > 0;
    folds.forEach((fold, i) => {
      const left = fold.querySelectorAll("tbody tr:not([hidden])").length;
      fold.open = some ? left > 0 : atFirst[i];
      (fold.closest("section") || fold).hidden = left === 0;
    });
    const shown = rows.filter((row) => !row.hidden).length;
    said.textContent = some ? `${shown} of ${rows.length} claims` : "";
  };
  place.addEventListener("input", filter);

  // A link to a claim opens the fold that it lies in; print shows everything.
  const reveal = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = row && row.closest("details");
    if (!fold || !folds.includes(fold)) return;
    fold.open = true;
    row.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  const inside = document.querySelectorAll("table.ledger details");
  window.addEventListener("beforeprint", () => [...folds, ...inside].forEach((fold) => (fold.open = true)));
  reveal();
});
