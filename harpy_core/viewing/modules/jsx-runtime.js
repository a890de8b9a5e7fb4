// What compiled JSX calls, by React's own function for the same.
const { createElement, Fragment } = globalThis.React;
const jsx = (type, props, key) =>
  createElement(type, key === undefined ? props : { ...props, key });
export { Fragment, jsx, jsx as jsxs };
