export default {
  fetch() {
    for (;;);
  },
};
