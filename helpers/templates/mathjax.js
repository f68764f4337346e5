window.MathJax = {
  tex: {inlineMath: [["$", "$"], ["\\(", "\\)"]], processEscapes: true, tags: "ams"},
  options: {enableMenu: false, ignoreHtmlClass: "mathjax_ignore"},
  svg: {mtextInheritFont: true}
};
