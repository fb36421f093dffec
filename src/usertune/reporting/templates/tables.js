// Marks the tables that are wider than the page, so that the style sheet can say that there is more.
"use strict";

(() => {
  const boxes = [...document.querySelectorAll(".scroll, .sheet")];
  const measure = () => boxes.forEach((box) => box.classList.toggle("more", box.scrollWidth > box.clientWidth + 1));
  new ResizeObserver(measure).observe(document.body);
  measure();
})();
