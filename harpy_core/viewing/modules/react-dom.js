// ReactDOM 18 as a module: its package has a script that makes a global.
const ReactDOM = globalThis.ReactDOM;
export default ReactDOM;
export const {
  createPortal, createRoot, findDOMNode, flushSync, hydrate, hydrateRoot, render,
  unmountComponentAtNode, unstable_batchedUpdates, unstable_renderSubtreeIntoContainer, version,
} = ReactDOM;
