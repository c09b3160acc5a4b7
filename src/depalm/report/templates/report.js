"use strict";
for (const gallery of document.querySelectorAll(".gallery")) {
  const form = gallery.querySelector("form");
  const cards = [...gallery.querySelectorAll(".card")];
  const output = form.querySelector("output");
  const fits = (card, kind, method) => {
    const right = [...card.dataset.right].map(Number);
    const of = method === "" ? right : [right[Number(method)]];
    if (kind === "random") return card.dataset.random === "1";
    if (kind === "right") return of.every((value) => value === 1);
    if (kind === "wrong") return of.every((value) => value === 0);
    if (kind === "disagree") {
      return method === "" ? new Set(right).size > 1 : right.some((value) => value !== of[0]);
    }
    return true;
  };
  const show = () => {
    const kind = form.elements.kind.value;
    const method = form.elements.method.value;
    let count = 0;
    for (const card of cards) {
      card.hidden = !fits(card, kind, method);
      count += card.hidden ? 0 : 1;
      for (const row of card.querySelectorAll("tr")) {
        row.classList.toggle("chosen", row.dataset.method === method);
      }
    }
    output.value = `${count} of ${cards.length} samples`;
  };
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
